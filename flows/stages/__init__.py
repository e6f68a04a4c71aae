"""The stages, one declaration a file. `flows.service.flows.chain` puts them in order."""
