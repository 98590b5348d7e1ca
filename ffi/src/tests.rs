//! What no C program can bring about from outside: panics within a call.
