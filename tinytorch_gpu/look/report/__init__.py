"""`look.report(folder)`: one page of a training run, made from the files in its folder."""
