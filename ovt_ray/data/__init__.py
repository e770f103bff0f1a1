"""Problems: formats, the rules that a row has to keep, the store, streams and mixtures."""
