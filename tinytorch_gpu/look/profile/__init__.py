"""`look.profile()`: where a program's time goes, by operator, module, kernel, beside what the machine can do."""
