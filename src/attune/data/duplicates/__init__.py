"""Rows that repeat each other: exact and near duplicates, leaks between sets, answers that contradict each other."""
