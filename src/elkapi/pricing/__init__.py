"""Reply -> usage -> amount: pure integer arithmetic; the ledger moves the money."""
