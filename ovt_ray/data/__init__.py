"""Problems: formats, the rules of a row, the store, streams and mixtures."""
