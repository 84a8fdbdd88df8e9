"""Translation between the formats of AI APIs, through one intermediate representation (`ir`); no I/O."""
