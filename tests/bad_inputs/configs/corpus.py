"""Bad studies, each with what is told of it: for every mistake its line and parts of its message.

A case is a name, the text and one string for each mistake: ``"LINE: part | part | part"``. All the
mistakes of a text are told together, in the order of the file.
"""

# A case is easier to read with its message on one line.
# ruff: noqa: E501

from __future__ import annotations

Case = tuple[str, str, tuple[str, ...]]

HEAD = "data: {table: x.csv}\ntasks: [a]\n"  # what follows starts on line 3
WAYS = "accepted: adapt, boosting, "


def _cases(*cases: tuple[str, ...]) -> list[Case]:
    return [(name, text, tuple(told)) for name, text, *told in cases]


def _after(*cases: tuple[str, ...]) -> list[Case]:
    return [(name, HEAD + text, tuple(told)) for name, text, *told in cases]


YAML = _cases(
    ("nothing", "", "1: the file is empty; it needs data and tasks"),
    ("null", "null", "1: the file is empty"),
    ("only a comment", "# later\n", "1: the file is empty"),
    ("a list at the top", "- data: x\n- tasks: [a]", "1: a study is written {title, data, tasks, …} | got [{'data': 'x'}"),
    ("a number at the top", "42", "1: a study is written | got 42"),
    ("a tab", "data:\n\ttable: x.csv\ntasks: [a]", "2: a tab indents this line | spaces"),
    ("a tab after spaces", "data:\n  table: x.csv\n \tid: a\ntasks: [a]", "3: a tab indents this line"),
    ("indented less", "data:\n   table: x.csv\n  id: y\ntasks: [a]", "3: belongs to no block | indented alike | opened on line 1"),
    ("indented more", "data: x.csv\n  id: y\ntasks: [a]", "2: a ':' too many, or a line indented too far"),
    ("no space after a colon", "data:x.csv\ntasks: [a]", "2: a ':' needs a space after it; line 1 has none"),
    ("no colon", "data: x.csv\ntasks\n", "2: a key needs a ':' and a value after it"),
    ("a colon in a text", "data: x.csv\ntasks: [a]\ntitle: One: two", "3: a ':' too many | quote text"),
    ("an open bracket", "data: {table: x.csv\ntasks: [a]", "2: a ',' or '}' is missing before this; the bracket is opened on line 1"),
    ("a bracket too many", "data: {table: x.csv}}\ntasks: [a]", "1: a '}' too many"),
    ("an open quote", "data: 'x.csv\ntasks: [a]", "1: a quote is never closed; it is opened on this line"),
    ("a backslash", 'data: "C:\\data.csv"\ntasks: [a]', "1: in double quotes \\d is no escape; use single quotes"),
    ("a star", "data: *.csv\ntasks: [a]", "1: no anchor &.csv; text that starts with * must be quoted"),
    ("a star in a list", "data: x.csv\ntasks: [*]", "2: text that starts with & or * must be quoted"),
    ("a star in a key", "data: x.csv\ntasks: {*a: binary}", '2: a key that starts with * must be quoted: "*a"'),
    ("an at sign", "data: @x\ntasks: [a]", "1: text that starts with @ must be quoted"),
    ("a backquote", "data: `x`\ntasks: [a]", "1: text that starts with ` must be quoted"),
    ("a per cent sign", "data: x.csv\ntasks: [a]\ntitle: %a", "3: text that starts with % must be quoted"),
    ("two documents", HEAD + "---\n" + HEAD, "3: a second document starts here; a file holds one study"),
    ("a python object", "data: !!python/object/apply:os.system [ls]\ntasks: [a]", "1: the tag !!python/object/apply:os.system is not read; write plain values"),
    ("a python name", "data: x.csv\ntasks: [!!python/name:os.system ]", "2: the tag !!python/name:os.system is not read"),
    ("a binary", "data: !!binary aGVsbG8=\ntasks: [a]", "1: the tag !!binary is not read"),
    ("a tag of its own", "data: !file x.csv\ntasks: [a]", "1: the tag !file is not read"),
    ("a merge key", "data: &d {table: x.csv}\ntasks: [a]\nstrategies:\n  joint: {<<: *d}", "4: merge keys (<<) are not read; write the keys out"),
    ("a key that is a list", "data: x.csv\n? [tasks]\n: a", "2: a key must be plain text"),
    ("an anchor in itself", "data: x.csv\ntasks: &t [*t]", "2: must be quoted"),
    ("a bell", "data: x.csv\ntasks: [a\x07]", "2: unacceptable character"),
    ("another YAML", "%YAML 3.0\n---\ndata: x.csv", "1: not valid YAML | version 1.* is required"),
)  # fmt: skip

STUDY = _cases(
    ("no data", "tasks: [a]", "1: a study needs data"),
    ("no tasks", "data: x.csv", "1: a study needs tasks"),
    ("a misspelt block and nothing of it", "dta: x.csv\ntasks: [a]", "1: dta: a study has no key 'dta'; did you mean 'data'? | accepted: title, data, "),
    ("a later version", "version: 2\ndata: x.csv\ntasks: {a: {new: 1}}", "1: version: this study is written in version 2 of the study file | reads 1 | pip install --upgrade plait"),
    ("version nought", "version: 0\n" + HEAD, "1: version: must be a whole number, at least 1; got 0"),
    ("a version in words", "version: latest\n" + HEAD, "1: version: must be a whole number | got 'latest'"),
    ("a key of another tool", "datasets: [x]\n" + HEAD, "1: datasets: a study has no key 'datasets' | data"),
    ("a key twice", HEAD + "seeds: 1\ntasks: [b]", "4: tasks: the key is given twice; first on line 2"),
    ("a title that is a list", HEAD + "title: [a]", "3: title: must be text; got ['a']"),
    ("everything wrong at once",
     "titel: x\ndata: {tabel: x.csv, id: [a]}\ntasks: {a: binray, b: {kind: rael}}\ntraining: {passes: 0, learning_raet: 1}\nstrategies: {a: {joint: {balancing: pcgard}}}\nseeds: none",
     "1: titel | did you mean 'title'", "2: data.tabel | did you mean 'table'", "2: data.id: must be text; got ['a']",
     "3: tasks.a: no kind 'binray'; did you mean 'binary'", "3: tasks.b.kind: no kind 'rael'; did you mean 'real'",
     "4: training.learning_raet | did you mean 'learning_rate'", "4: training.passes: must be a whole number, at least 1; got 0",
     "5: strategies.a.joint.balancing: no balancing method 'pcgard'; did you mean 'pcgrad'", "6: seeds: must be a whole number"),
)  # fmt: skip

DATA = _cases(
    ("data that is a number", "data: 3\ntasks: [a]", "1: data: data is written {table, tables, inputs, …}; got 3"),
    ("data without a table", "data: {id: x}\ntasks: [a]", "1: data: data needs table: path, or tables: {name: path}"),
    ("a table without a path", "data: {table: }\ntasks: [a]", "1: data.table: must be text; got null"),
    ("several tables as one", "data: {table: [a.csv, b.csv]}\ntasks: [a]", "1: data.table: table is one path, globs allowed; several tables are tables: {name: path}"),
    ("tables as a path", "data: {tables: x.csv}\ntasks: [a]", "1: data.tables: tables is written {name: …}; got 'x.csv'"),
    ("no tables", "data: {tables: {}}\ntasks: [a]", "1: data.tables: data needs at least one table: {name: path}"),
    ("table and tables", "data: {table: x, tables: {y: z}}\ntasks: [a]", "1: data.table: give either table or tables, not both"),
    ("two tables of one name", "data:\n  tables:\n    a: x.csv\n    a: y.csv\ntasks: [a]", "4: data.tables.a: the key is given twice; first on line 3"),
    ("a key of data in a table", "data:\n  tables:\n    a: {path: x.csv, split: random}\ntasks: [a]", "3: data.tables.a.split: table 'a' has no key 'split' | path"),
    ("a variable that is not set", "data: ${PLAIT_NOT_SET}/x.csv\ntasks: [a]", "1: data.table: | PLAIT_NOT_SET is not set; set it, or write ${NAME:-folder}"),
    ("an unknown type", "data:\n  table: x\n  types: {c: numerik}\ntasks: [a]", "3: data.types.c: no type 'numerik'; did you mean 'numeric'? (accepted: "),
    ("no buckets", "data: {table: x, types: {u: hashed}, buckets: {u: 0}}\ntasks: [a]", "1: data.buckets.u: must be a whole number, at least 1; got 0"),
    ("types as a list", "data: {table: x, types: [a]}\ntasks: [a]", "1: data.types: types is written {name: …}; got ['a']"),
    ("a split in words", "data: {table: x, split: random}\ntasks: [a]", "1: data.split: a split is written {random, stratified, grouped, …}; got 'random'"),
    ("per cents", "data: {table: x, split: {random: [80, 10, 10]}}\ntasks: [a]", "1: data.split.random: must be three fractions | add up to 1 | [0.8, 0.1, 0.1]"),
    ("fractions beyond one", "data: {table: x, split: {random: [0.8, 0.2, 0.2]}}\ntasks: [a]", "1: data.split.random: must be three fractions"),
    ("two splits", "data: {table: x, split: {random: [0.8, 0.1, 0.1], column: s}}\ntasks: [a]", "1: data.split: a split has one of random, stratified, grouped, time, column; got random, column"),
    ("a grouped split by nothing", "data: {table: x, split: {grouped: [0.8, 0.1, 0.1]}}\ntasks: [a]", "1: data.split: a grouped split needs by: the column it goes by"),
    ("a random split by a column", "data: {table: x, split: {random: [0.8, 0.1, 0.1], by: u}}\ntasks: [a]", "1: data.split.by: a random split takes no by; did you mean grouped or stratified?"),
    ("a seed for a column", "data: {table: x, split: {column: s, seed: 3}}\ntasks: [a]", "1: data.split.seed: a split by column takes no seed"),
    ("a part of another name", "data: {table: x, split: {column: s, names: {a: trian}}}\ntasks: [a]", "1: data.split.names.a: no part of a split 'trian'; did you mean 'train'? (accepted: train, valid, test)"),
    ("a seed below nought", "data: {table: x, split: {random: [0.8, 0.1, 0.1], seed: -1}}\ntasks: [a]", "1: data.split.seed: must be a whole number, at least 0; got -1"),
)  # fmt: skip

TASKS = _cases(
    ("tasks in a word", "data: x\ntasks: a", "2: tasks: tasks is written {name: …}; got 'a'"),
    ("no task", "data: x\ntasks: []", "2: tasks: the list is empty"),
    ("a task in a list twice", "data: x\ntasks: [a, b, a]", "2: tasks: given twice: a"),
    ("a task without a name", "data: x\ntasks: {'': binary}", "2: tasks | a task needs a name"),
    ("a list for a task", "data: x\ntasks: {a: [b]}", "2: tasks.a: task 'a' is written {target, table, kind, …}; got ['b']"),
    ("Norway as a kind", "data: x\ntasks: {a: no}", "2: tasks.a: no kind 'no' | binary, boundaries, classes, counts, depth, normals, ordinal, real"),
    ("a misspelt hint", "data: x\ntasks: {a: regresion}", "2: tasks.a: no kind 'regresion'; did you mean 'regression'? (accepted: binary, classes, "),
    ("a misspelt key", "data: x\ntasks:\n  a:\n    targt: y", "4: tasks.a.targt: task 'a' has no key 'targt'; did you mean 'target'? (accepted: target, table, kind, "),
    ("a table that is not there", "data: {tables: {t: x}}\ntasks: {a: {table: u}}", "2: tasks.a.table: no table 'u'; valid: t"),
    ("columns and a target", "data: x\ntasks: {a: {columns: c*, target: y}}", "2: tasks.a.target: columns make one task each and take no target"),
    ("unseen without by", "data: x\ntasks: {a: {unseen: skip}}", "2: tasks.a.unseen: unseen is about the values of by; give by: column"),
    ("an unknown answer to unseen", "data: x\ntasks: {a: {by: s, unseen: refse}}", "2: tasks.a.unseen: no answer to unseen values 'refse'; did you mean 'refuse'? (accepted: refuse, skip)"),
    ("classes of a number", "data: x\ntasks: {a: {kind: real, classes: [x, y]}}", "2: tasks.a.classes: a task of kind real has no classes"),
    ("three classes of two", "data: x\ntasks: {a: {kind: binary, classes: [x, y, z]}}", "2: tasks.a.classes: a binary task has two classes; got 3"),
    ("a class twice", "data: x\ntasks: {a: {kind: classes, classes: [x, y, x]}}", "2: tasks.a.classes: given twice: x"),
    ("positive of a number", "data: x\ntasks: {a: {kind: real, positive: x}}", "2: tasks.a.positive: positive makes a binary task"),
    ("a loss of another kind", "data: x\ntasks: {a: {kind: real, loss: bce}}", "2: tasks.a.loss: loss 'bce' does not fit kind 'real'"),
    ("a misspelt loss", "data: x\ntasks: {a: {loss: huberr}}", "2: tasks.a.loss: no loss 'huberr'; did you mean 'huber'?"),
    ("a misspelt metric", "data: x\ntasks:\n  a:\n    metrics:\n    - auroc\n    - acuracy", "6: tasks.a.metrics[1]: no metric 'acuracy'; did you mean 'accuracy'?"),
    ("a metric of another kind", "data: x\ntasks: {a: {kind: real, metrics: [auroc]}}", "2: tasks.a.metrics[0]: metric 'auroc' does not fit kind real; valid: mae, pearson, r2, rmse, spearman"),
    ("a metric by group without one", "data: x\ntasks: {a: {kind: binary, metrics: [auroc, gauc]}}", "2: tasks.a.metrics[1]: metric 'gauc' needs group: the column of whose row it is"),
    ("a metric first that ranks nothing", "data: x\ntasks: {a: {metrics: [calibration]}}", "2: tasks.a.metrics[0]: metric 'calibration' is best at 1, so that it cannot rank; name another one first"),
    ("a preference below nought", "data: x\ntasks: {a: {preference: -1}}", "2: tasks.a.preference: must be a number, at least 0; got -1"),
    ("a preference that is no number", "data: x\ntasks: {a: {preference: .nan}}", "2: tasks.a.preference: must be a number, at least 0; got nan"),
)  # fmt: skip

STRATEGIES = _after(
    ("no strategies", "strategies: []", "3: strategies: the study has no strategies; leave the key out for the usual ones"),
    ("strategies in a word", "strategies: joint", "3: strategies: strategies is written {name: …}; got 'joint'"),
    ("two of one label", "strategies:\n  a: joint\n  b: joint\n  a: separate", "6: strategies.a: the key is given twice; first on line 4"),
    ("a list with one twice", "strategies: [joint, {joint: {balancing: pcgrad}}]", "3: strategies[1]: 'joint' is given twice; name them: {label: method}"),
    ("a list in a list", "strategies: [[joint]]", "3: strategies[0]: a strategy method is its name, or {name: {settings}}; got ['joint']; valid: adapt, "),
    ("a misspelt strategy", "strategies:\n  eparate: {}", f"4: strategies.eparate: no strategy method 'eparate'; did you mean 'separate'? ({WAYS} | a label of yours is"),
    ("a label and nothing", "strategies: {mine: }", "3: strategies.mine: no strategy method 'mine' | a label of yours is {label: {method: {settings}}}"),
    ("no label", "strategies: {'': joint}", "3: strategies | a strategy needs a label"),
    ("a strategy that is a number", "strategies: {a: 3}", "3: strategies.a: a strategy method is its name | got 3"),
    ("two strategies in one", "strategies: {a: {joint: {}, separate: {}}}", "3: strategies.a: | got 2 names: joint, separate"),
    ("a misspelt sharing", "strategies: {a: {joint: {sharing: mnoe}}}", "3: strategies.a.joint.sharing: no sharing method 'mnoe'; did you mean 'mmoe'?"),
    ("a misspelt balancing", "strategies: {a: {joint: {balancing: famoo}}}", "3: strategies.a.joint.balancing: no balancing method 'famoo'; did you mean 'famo'?"),
    ("a misspelt procedure", "strategies: {a: {joint: {procedure: task_sm}}}", "3: strategies.a.joint.procedure: no procedure method 'task_sm'; did you mean 'task_sam'?"),
    ("a misspelt adapter", "strategies: {a: {adapt: {lroa: {rank: 4}}}}", "3: strategies.a.adapt: no adapting method 'lroa'; did you mean 'lora'?"),
    ("a misspelt merger", "strategies: {a: {merge: {task_aritmetic: {scale: 1}}}}", "3: strategies.a.merge: no merging method 'task_aritmetic'; did you mean 'task_arithmetic'?"),
    ("a method of another family", "strategies: {a: {joint: {sharing: pcgrad}}}", "3: strategies.a.joint.sharing: no sharing method 'pcgrad'"),
    ("two mergers in one", "strategies: {a: {merge: {average: {}, task_arithmetic: {}}}}", "3: strategies.a.merge: strategy method 'merge' takes one merging method; got average and task_arithmetic"),
    ("an unknown setting", "strategies:\n  a:\n    joint:\n      sharing:\n        mmoe:\n          expert: 2", "8: strategies.a.joint.sharing.mmoe.expert: sharing method 'mmoe' has no key 'expert'; did you mean 'experts'? (accepted: "),
    ("a setting of another method", "strategies: {a: {separate: {balancing: pcgrad}}}", "3: strategies.a.separate.balancing: strategy method 'separate' has no key 'balancing'"),
    ("a setting out of range", "strategies:\n  a:\n    joint:\n      balancing:\n        graddrop:\n          leak: 7", "8: strategies.a.joint.balancing.graddrop.leak: | leak must lie between 0 and 1, got 7"),
    ("a rank below one", "strategies:\n  a:\n    adapt:\n      lora:\n        rank: 0", "7: strategies.a.adapt.lora.rank: | rank must be at least 1, got 0"),
    ("no experts", "strategies: {a: {joint: {sharing: {mmoe: {experts: 0}}}}}", "3: strategies.a.joint.sharing.mmoe.experts: | at least 1, got 0"),
    ("a number in words", "strategies: {a: {joint: {sharing: {mmoe: {experts: eight}}}}}", "3: strategies.a.joint.sharing.mmoe.experts: must be a whole number; got 'eight'"),
    ("half an expert", "strategies: {a: {joint: {sharing: {mmoe: {experts: 2.5}}}}}", "3: strategies.a.joint.sharing.mmoe.experts: must be a whole number; got 2.5"),
    ("settings that are a list", "strategies: {a: {joint: [pcgrad]}}", "3: strategies.a.joint: the settings of strategy method 'joint' are a mapping; got ['pcgrad']"),
    ("a strategy in itself", "strategies: {a: &a {joint: *a}}", "3: no anchor &a"),
    ("joint in joint in joint", "strategies: {a: {joint: {joint: {joint: {}}}}}", "3: strategies.a.joint.joint: strategy method 'joint' has no key 'joint'"),
    ("a class that is not there", "strategies: {a: 'no.such:Method'}", "3: strategies.a: cannot load 'no.such:Method': No module named 'no'"),
    ("a class that is no method", "strategies: {a: 'os.path:join'}", "3: strategies.a: 'os.path:join' is not a plait method"),
    ("a class without a package", "strategies: {a: ':Method'}", "3: strategies.a: cannot load ':Method'"),
    ("a class from above", "strategies: {a: '..up:Method'}", "3: strategies.a: cannot load '..up:Method'"),
)  # fmt: skip

TWO = "data: {table: x.csv}\ntasks: [click, like]\n"
MANY = "data: x\ntasks: {exam: {by: school}, tox: {columns: 'NR-*'}, age: real}\n"
NAMES = _cases(
    ("an unknown task in a balancer", TWO + "strategies:\n  a:\n    joint:\n      balancing:\n        covariance_alignment:\n          weights:\n            click: 2\n            lke: 1",
     "10: strategies.a.joint.balancing.covariance_alignment.weights.lke: no task 'lke'; did you mean 'like'? (accepted: click, like)"),
    ("an unknown task in a sharing", TWO + "strategies: {a: {joint: {sharing: {cgc: {experts: {clik: 2, like: 1}}}}}}", "3: strategies.a.joint.sharing.cgc.experts.clik: no task 'clik'; did you mean 'click'?"),
    ("an unknown task in a merger", TWO + "strategies: {a: {merge: {average: {weights: {click: 1, view: 1}}}}}", "3: strategies.a.merge.average.weights.view: no task 'view'; valid: click, like"),
    ("an unknown task in a merger's merger", TWO + "strategies: {a: {merge: {dare: {method: {average: {weights: {clic: 1}}}}}}}", "3: strategies.a.merge.dare.method.average.weights.clic: no task 'clic'; did you mean 'click'?"),
    ("an unknown task in a list", TWO + "strategies:\n  a:\n    joint:\n      procedure:\n        auto_lambda:\n          primary:\n          - click\n          - likes", "10: strategies.a.joint.procedure.auto_lambda.primary[1]: no task 'likes'; did you mean 'like'?"),
    ("an unknown parent", TWO + "strategies:\n  a:\n    joint:\n      sharing:\n        dbmtl:\n          parents:\n            like: [clock]", "9: strategies.a.joint.sharing.dbmtl.parents.like[0]: no task 'clock'; did you mean 'click'?"),
    ("a category of its own name with an unknown task", TWO + "strategies: {a: {joint: {sharing: {home: {categories: {watch: [click], react: [liek]}}}}}}", "3: strategies.a.joint.sharing.home.categories.react[0]: no task 'liek'; did you mean 'like'?"),
    ("unknown tasks and other mistakes", TWO + "strategies:\n  a: {joint: {balancing: {stch: {reference: {clikc: 0}}}}}\n  b: {joint: {balancing: pcgard}}", "4: strategies.a.joint.balancing.stch.reference.clikc: no task 'clikc'; did you mean 'click'?", "5: no balancing method 'pcgard'"),
    ("a task left out of a balancer", TWO + "strategies:\n  a:\n    joint:\n      balancing:\n        covariance_alignment:\n          weights: {click: 2}", "8: strategies.a.joint.balancing.covariance_alignment.weights: given by task, and lacks like"),
    ("a model left out of a merger", TWO + "strategies: {a: {merge: {fisher: {weights: {like: 1}}}}}", "3: strategies.a.merge.fisher.weights: given by task, and lacks click"),
    ("families left out of a procedure", MANY + "strategies: {a: {joint: {procedure: {mt_adamw: {shares: {'exam[3]': 1}}}}}}", "3: strategies.a.joint.procedure.mt_adamw.shares: given by task, and lacks NR-*, age"),
    ("a family in place of its task", MANY + "strategies: {a: {joint: {sharing: {ple: {experts: {exam: 2, 'exam[3]': 1, NR-AR: 2, SR-p53: 1}}}}}}", "3: experts.exam: no task 'exam'; did you mean 'exam[…]'? (accepted: exam[…], NR-*, age)", "3: experts.SR-p53: no task 'SR-p53'"),
)  # fmt: skip

REST = _after(
    ("passes in words", "training: {passes: eight}", "3: training.passes: must be a whole number, at least 1; got 'eight'"),
    ("passes in quotes", "training: {passes: '8'}", "3: training.passes: must be a whole number, at least 1; got '8'"),
    ("half a pass", "training: {passes: 1.5}", "3: training.passes: must be a whole number, at least 1; got 1.5"),
    ("a date for passes", "training: {passes: 2020-01-01}", "3: training.passes: must be a whole number, at least 1; got '2020-01-01'"),
    ("1e-3 as text", "training: {learning_rate: '1e-3'}", "3: training.learning_rate: must be a number, above 0; got '1e-3'"),
    ("a rate of nought", "training: {learning_rate: 0}", "3: training.learning_rate: must be a number, above 0; got 0"),
    ("a rate that is no number", "training: {learning_rate: .nan}", "3: training.learning_rate: must be a number, above 0; got nan"),
    ("a rate without end", "training: {learning_rate: .inf}", "3: training.learning_rate: must be a number, above 0; got inf"),
    ("yes for a number", "training: {patience: true}", "3: training.patience: must be a whole number | got true"),
    ("a warm-up beyond one", "training: {warmup: 2}", "3: training.warmup: must be a number, at least 0, at most 1; got 2"),
    ("a misspelt word", "training: {schedule: cosin}", "3: training.schedule: must be 'cosine' or 'constant'; got 'cosin'; did you mean 'cosine'?"),
    ("a misspelt mixture", "training: {mixing: porportional}", "3: training.mixing: must be one of 'proportional', 'uniform', | did you mean 'proportional'?"),
    ("half precision", "training: {precision: fp16}", "3: training.precision: must be one of 'auto', 'float32', 'bfloat16'; got 'fp16'"),
    ("an unknown device", "training: {device: gpu}", "3: training.device: no device 'gpu'; write auto, cpu, cuda, cuda:1 or mps"),
    ("an unknown setting", "training: {epochs: 3}", "3: training.epochs: training has no key 'epochs' | passes"),
    ("training as a list", "training: [passes, 3]", "3: training: training is written {passes, batch, learning_rate, …}"),
    ("no seeds", "seeds: 0", "3: seeds: must be a whole number, at least 1; got 0"),
    ("seeds below nought", "seeds: {init: -3}", "3: seeds.init: must be a whole number, at least 1; got -3"),
    ("seeds as a list", "seeds: [1, 2, 3]", "3: seeds: must be a whole number, at least 1; got [1, 2, 3]"),
    ("misspelt seeds", "seeds: {splti: 1}", "3: seeds.splti: seeds has no key 'splti'; did you mean 'split'? (accepted: init, split)"),
    ("intervals by nothing", "intervals: {}", "3: intervals: intervals need by: the column whose values are resampled"),
    ("misspelt intervals", "intervals: {bye: user}", "3: intervals.bye: intervals has no key 'bye'; did you mean 'by'?"),
    ("a misspelt stem", "encoder: {txt: bag}", "3: encoder.txt: encoder has no key 'txt'; did you mean 'text'? (accepted: numeric, "),
    ("a misspelt encoder", "encoder: {text: bga}", "3: encoder.text: no text encoder 'bga'; did you mean 'bag'? (accepted: bag, transformer)"),
    ("an encoder of another type", "encoder: {image: bag}", "3: encoder.image: no image encoder 'bag'; valid: cnn"),
    ("two encoders in one", "encoder: {text: {bag: {}, transformer: {}}}", "3: encoder.text: an encoder is its name, or {name: {settings}}"),
    ("a misspelt width", "encoder:\n  trunk:\n    mlp:\n      widht: 3", "6: encoder.trunk.mlp.widht: trunk encoder 'mlp' has no key 'widht'; did you mean 'width'? (accepted: width, depth, "),
    ("no width", "encoder: {trunk: {mlp: {width: 0}}}", "3: encoder.trunk.mlp.width: must be a whole number, at least 1; got 0"),
    ("dropout beyond one", "encoder: {trunk: {mlp: {dropout: 2}}}", "3: encoder.trunk.mlp.dropout: must be a number, at least 0, at most 1; got 2"),
    ("a module in a word", "encoder: {module: mine}", "3: encoder.module: must be package.module:Class; got 'mine'"),
    ("a misspelt module", "encoder: {modul: 'a:B', settings: {}}", "3: encoder.modul: a module of yours has no key 'modul'; did you mean 'module'?"),
    ("no trials", "tune: {trials: 0}", "3: tune.trials: must be a whole number, at least 1; got 0"),
    ("trials over a misspelt setting", "tune: {over: {learning_raet: [1]}}", "3: tune.over.learning_raet: no training setting 'learning_raet'; did you mean 'learning_rate'? (accepted: "),
    ("trials over a misspelt strategy", "tune: {over: {jiont.balancing: [equal]}}", "3: tune.over.jiont.balancing: no strategy 'jiont'; did you mean 'joint'?"),
    ("trials over a misspelt path", "tune: {over: {joint.balncing: [equal]}}", "3: tune.over.joint.balncing: strategy method 'joint' has no setting 'balncing'; did you mean 'balancing'?"),
    ("trials over a path too long", "strategies: {e: {joint: {sharing: mmoe}}}\ntune:\n  over:\n    e.sharing.experts.more: [2]", "6: tune.over.e.sharing.experts.more: sharing.experts is no method and has no settings"),
    ("trials over words", "tune: {over: {learning_rate: [fast]}}", "3: tune.over.learning_rate[0]: must be a number, above 0; got 'fast'"),
    ("trials from high to low", "tune: {over: {learning_rate: {low: 1, high: 0.1}}}", "3: tune.over.learning_rate: the values of 'learning_rate' are a list, or {low: …, high: …} with 0 < low < high"),
)  # fmt: skip

CASES = [
    (f"{part}: {name}", text, told)
    for part, cases in (
        ("yaml", YAML), ("study", STUDY), ("data", DATA), ("tasks", TASKS),
        ("strategies", STRATEGIES), ("names", NAMES), ("rest", REST),
    )
    for name, text, told in cases
]  # fmt: skip
