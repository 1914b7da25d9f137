"""Recipes, one YAML file each: data, no code."""
