"""The verbs of the command line, one file each: where training, export, the store and the service meet."""
