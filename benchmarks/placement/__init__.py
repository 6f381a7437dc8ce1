"""How keys are placed on several servers, computed without any: `python -m benchmarks.placement`."""
