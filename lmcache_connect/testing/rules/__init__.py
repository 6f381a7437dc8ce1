"""The rules of the conformance suite, one file for each subject."""
