"""The stages, one declaration a file. `flows.pipeline.chain` puts them in order."""
