"""Parts of the GRPO loop: the stream of groups, minibatches, samples, kept rollouts and the parity gate."""
