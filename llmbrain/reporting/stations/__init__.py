"""The stations of a report, one module each: what it reads, its key numbers, its section and its methods sentences."""
