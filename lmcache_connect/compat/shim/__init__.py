"""Guests where LMCache is not installed: classes in the place of LMCache's, under the names that `names` lists."""
