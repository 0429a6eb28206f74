// The choices above the log: tasks, attempt, sources, filter, find, switches and download.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useState } from "preact/hooks";
import { changeQuery } from "../../frame/router";
import { bytesText } from "../../parts/numbers";
import { useTypedText } from "../../parts/typed_text";
import { SOURCES } from "./engine/records";
import type { SearchState } from "./log_session";
import type { LogsQuery } from "./logs_query";

export interface ToolbarProps {
  readonly query: LogsQuery;
  readonly taskCount: number;
  readonly attempts: number;
  readonly problems: Readonly<Record<string, string>>;
  readonly downloadUrl: string;
  /** Whether the filters are shown on a narrow screen. */
  readonly isOpen: boolean;
  readonly onOpen: () => void;
}

/** What is shown: tasks, attempt, sources and filter. Each choice is part of the address. */
export function Toolbar({ query, taskCount, attempts, problems, downloadUrl, isOpen, onOpen }: ToolbarProps) {
  return (
    <div class="log-toolbar" role="group" aria-label="What is shown">
      <button type="button" class="button log-switch log-show-filters" aria-pressed={isOpen} onClick={onOpen}>
        Filters
      </button>
      {taskCount > 1 && (
        <TextField
          name="tasks" label="Tasks" value={query.tasks} placeholder={`all ${taskCount}`} problem={problems["tasks"]}
          help="For example 3, or 0,2,5-9. Empty shows all tasks, merged by time."
        />
      )}
      {(attempts > 1 || query.attempt !== null) && (
        <label class="log-field">
          Attempt
          <select
            value={query.attempt ?? ""}
            onChange={(event) => changeQuery({ attempt: event.currentTarget.value, line: "" })}
          >
            <option value="">all {attempts}</option>
            {Array.from({ length: Math.max(attempts, (query.attempt ?? 0) + 1) }, (_, number) => (
              <option key={number} value={number}>{number}</option>
            ))}
          </select>
        </label>
      )}
      <label class="log-field log-field-source">
        Source
        <select
          value={query.sources.join(",")}
          onChange={(event) => changeQuery({ source: event.currentTarget.value, line: "" })}
        >
          <option value="">all</option>
          {SOURCES.map((source) => <option key={source} value={source}>{source}</option>)}
          <option value="stdout,stderr">stdout and stderr</option>
        </select>
      </label>
      <TextField
        name="grep" label="Only lines with" value={query.grep} placeholder="regular expression" problem={problems["grep"]}
        help="An RE2 pattern, as for iris logs --grep." wide
      />
      <TextField
        name="since" label="Since" value={query.since} placeholder="10m" problem={problems["since"]}
        help="For example 10m, 14:05, or 2026-11-30T14:05."
      />
      <TextField
        name="until" label="Until" value={query.until} placeholder="now" problem={problems["until"]}
        help="For example 10m, 14:05, or 2026-11-30T14:05."
      />
      <Switch name="wrap" isOn={query.wraps} title="Wrap long lines (w)">Wrap</Switch>
      <Switch name="times" isOn={query.showsTimes} title="Show the time of each line (t)">Times</Switch>
      <a class="button" href={downloadUrl} download title="Download the exact bytes of stdout and stderr">Download</a>
    </div>
  );
}

interface TextFieldProps {
  readonly name: string;
  readonly label: string;
  readonly value: string;
  readonly placeholder: string;
  readonly help: string;
  readonly problem: string | undefined;
  readonly wide?: boolean;
}

function TextField({ name, label, value, placeholder, help, problem, wide = false }: TextFieldProps) {
  const { text, type, applyNow } = useTypedText(value, (next) => {
    changeQuery(name === "tasks" ? { tasks: next, task: "", line: "" } : { [name]: next, line: "" });
    return next;
  });
  const helpId = `log-${name}-help`;
  return (
    <label class={`log-field${wide ? " log-field-wide" : ""}`}>
      {label}
      <input
        type="text" value={text} placeholder={placeholder} title={help} spellcheck={false} autocomplete="off"
        aria-invalid={problem ? "true" : undefined} aria-describedby={problem ? helpId : undefined}
        onInput={(event) => type(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter") applyNow();
        }}
      />
      {problem && <span id={helpId} class="log-problem" role="alert">{problem}</span>}
    </label>
  );
}

function Switch({ name, isOn, title, children }: { name: string; isOn: boolean; title: string; children: ComponentChildren }) {
  return (
    <button type="button" class="button log-switch" aria-pressed={isOn} title={title} onClick={() => changeQuery({ [name]: isOn ? "" : "1" })}>
      {children}
    </button>
  );
}

export interface FindBarProps {
  readonly query: LogsQuery;
  readonly search: SearchState;
  readonly onFind: (direction: "next" | "previous") => void;
  readonly onStop: () => void;
  readonly onLeave: () => void;
}

/** Finds lines with a pattern. The server searches, so the log is not downloaded. */
export function FindBar({ query, search, onFind, onStop, onLeave }: FindBarProps) {
  const [text, setText] = useState(query.find);
  // A layout effect runs before the next key of the user. Another effect could overwrite what this key has typed.
  useLayoutEffect(() => setText(query.find), [query.find]);
  const apply = (direction: "next" | "previous") => {
    if (text !== query.find) changeQuery({ find: text });
    if (text) onFind(direction);
  };
  return (
    <form
      class="log-find" role="search"
      onSubmit={(event) => {
        event.preventDefault();
        apply("next");
      }}
    >
      <label class="log-field log-field-find log-field-wide">
        Find
        <input
          id="log-find" type="search" value={text} placeholder="expression  ( / )" spellcheck={false}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && event.shiftKey) {
              event.preventDefault();
              apply("previous");
            } else if (event.key === "Escape") {
              onStop();
              onLeave();
            }
          }}
        />
      </label>
      <button type="button" class="button" title="Previous match (N)" onClick={() => apply("previous")}>Previous</button>
      <button type="submit" class="button" title="Next match (n)">Next</button>
      <span class="log-find-state muted" role="status">
        {search.isRunning ? (
          <>
            Searching… {search.searchedBytes > 0 && `${bytesText(search.searchedBytes)} so far`}{" "}
            <button type="button" class="quiet-button" onClick={onStop}>Stop</button>
          </>
        ) : (
          search.result
        )}
      </span>
    </form>
  );
}
