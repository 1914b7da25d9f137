"""The stages that pipelines are made of."""
