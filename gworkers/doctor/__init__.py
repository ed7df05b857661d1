"""What will hurt, before the deploy: each thing that is found is a Finding, and a file here is where
it is looked for."""
