"""Stand-ins for other libraries: their names and behaviour, without their faults."""
