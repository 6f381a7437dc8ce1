"""What single calls cost: many at a time, one after the other, from threads, and beside large transfers."""
