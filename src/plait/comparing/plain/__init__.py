"""Plain models: one fitted estimator per task, or one for several tasks with the task's number."""
