"""`redis-ring://`: several plain servers, and large chunks whose pieces lie on some of them."""
