"""`sor monitor`: one screen that says where studies stand. What is known -> what is shown; keys; nothing in
here decides what jobs do."""
