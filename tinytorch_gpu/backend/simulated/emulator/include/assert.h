// assert() comes with the language header.
