"""The claims of the report, one module each: `textmill experiment run NAME`."""
