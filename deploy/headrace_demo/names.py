"""What the agent and the demo around it have to call the same."""

MODEL = "tiny-sql"
SQL, DOCS = "sql", "docs"  # artifact types: answers, and queries put in words
