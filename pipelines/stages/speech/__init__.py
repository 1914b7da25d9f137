"""Stages of dementia from speech, and what training shares with them: hearing a recording, its features, their cache."""
