"""What a trained agent and its model are worth: errors of the model, diagnoses, statistics over seeds."""
