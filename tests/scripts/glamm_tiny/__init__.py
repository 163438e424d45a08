"""How glamm-tiny is made."""
