"""Stages, plans, workers, ledger, records: how a cohort is run."""
