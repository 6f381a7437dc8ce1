"""What all commands share: which store, what is printed and how, exit codes, and how a command is declared."""
