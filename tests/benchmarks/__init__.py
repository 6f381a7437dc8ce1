"""The logic of the benchmarks: what they compare, check and report. They measure nothing here."""
