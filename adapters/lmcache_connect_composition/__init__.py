"""Around a store, or in its place: `audit://`, `audit+<scheme>://`, `fault+<scheme>://`, `blackhole://`, `mock://`."""
