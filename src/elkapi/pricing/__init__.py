"""Reply -> usage -> amount: pure arithmetic over integers; the ledger moves the money."""
