"""The glue of Radiance Fieldbook: study, layout, status, ledger and the command line."""
