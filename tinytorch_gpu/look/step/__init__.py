"""`look.step(model, optimizer)`: watches training steps for the classic pitfalls and names the culprit."""
