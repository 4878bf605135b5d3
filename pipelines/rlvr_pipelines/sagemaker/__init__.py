"""Jobs on SageMaker as the command line plans, shows, stops and deletes them."""
