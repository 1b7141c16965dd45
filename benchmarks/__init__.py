"""Benchmarks: one question a file, answered by `python -m benchmarks NAME`.

A benchmark is a module of this package with four functions; `__main__` finds it and does the rest:

  add_arguments(parser)     its own options; `__main__` adds those that all have
  measure(options, record)  what was found, as JSON can hold it: {"notes", "cases", …}; with "failures", those are
                            printed last and the exit code is 1. Cases go through the `Record`, which writes each into
                            the file at once, and knows those of an earlier run
  table(result)             the same as Markdown
  plot(result, path)        the same as a PNG

`SETTINGS`, the options that a result is of, and `SMOKE`, the options of a run that takes seconds; `GROWING`, where
there are any, the settings that say which cases there are, not how one is measured: `--resume` may ask for more of
them. The first line of its docstring is the question.

What they share: `measuring` (compile, compare, time in turns), `record` (the cases of a result), `peers` (one layer in
every library), `comparison` (several implementations on one piece of work), `trainers` (one experiment in every
library), `arguments`.
"""
