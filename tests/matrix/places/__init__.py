"""The stores of the matrix, each with what can be done to it, and the proxies in front of it."""
