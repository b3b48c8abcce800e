"""Settings of nbgrader, copied into the course folder by `make course`.

The grader has an environment of its own, `.venv-course`; notebooks run in that of the book, by a
kernel that `make course` makes and calls "metanotes".
"""

c = get_config()  # type: ignore[name-defined]  # noqa: F821  nbgrader's

c.CourseDirectory.course_id = "metanotes"
c.Execute.kernel_name = "metanotes"
c.Execute.timeout = 120  # seconds a cell; the longest of ours takes about twenty
