"""`layout=connect`: this toolkit's own records, whole or in parts."""
