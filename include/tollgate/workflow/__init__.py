"""What each task of a DAG does: one function a task, which opens the transactions and returns what XCom may hold."""
