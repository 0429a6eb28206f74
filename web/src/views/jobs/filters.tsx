// The filters above the list of jobs. Each change goes into the address of the page.

import { changeQuery } from "../../frame/router";
import { countText } from "../../parts/numbers";
import { StateShape } from "../../parts/state";
import { STATES, styleOf } from "../../parts/states";
import { useTypedText } from "../../parts/typed_text";
import { choosesAll, SPANS, stateParameter, type Conditions } from "./conditions";
import { total } from "./job_list";

/** The filters, with the number of jobs in each state. */
export function Filters({ conditions, counts }: { conditions: Conditions; counts: ReadonlyMap<number, number> }) {
  return (
    <form class="job-filters" role="search" aria-label="Jobs" onSubmit={(event) => event.preventDefault()}>
      <div class="job-fields">
        <TextFilter parameter="name" value={conditions.name} label="Part of the name" placeholder="Search names" isSearch />
        <TextFilter parameter="owner" value={conditions.owner} label="Owner" placeholder="Owner" />
        <select
          aria-label="Time of submission"
          value={conditions.since}
          onChange={(event) => change({ since: event.currentTarget.value })}
        >
          <option value="">any time</option>
          {[...SPANS].map(([key, { label }]) => (
            <option key={key} value={key}>
              {label}
            </option>
          ))}
        </select>
        {!choosesAll(conditions) && (
          <button type="button" class="quiet-button" onClick={clearFilters}>
            Clear
          </button>
        )}
      </div>
      <div class="state-chips" role="group" aria-label="States">
        <Chip label="all" count={total(counts, [])} pressed={conditions.states.length === 0} onClick={() => change({ state: "" })} />
        {STATES.map((_, state) => state)
          .filter((state) => state > 0 && (counts.get(state) || conditions.states.includes(state)))
          .map((state) => (
            <Chip
              key={state}
              state={state}
              label={styleOf(state).label}
              count={counts.get(state) ?? 0}
              pressed={conditions.states.includes(state)}
              onClick={() => change({ state: stateParameter(toggled(conditions.states, state)) })}
            />
          ))}
      </div>
    </form>
  );
}

/** Removes all conditions. */
export function clearFilters(): void {
  change({ name: "", owner: "", since: "", state: "" });
}

/** Changes filters, and returns to the first page. */
export function change(changes: Readonly<Record<string, string>>): void {
  changeQuery({ ...changes, page: "" });
}

function Chip(props: { label: string; count: number; pressed: boolean; state?: number; onClick: () => void }) {
  return (
    <button type="button" class="chip" aria-pressed={props.pressed} onClick={props.onClick}>
      {props.state !== undefined && <StateShape state={props.state} />}
      {props.label} <span class="chip-count numbers">{countText(props.count)}</span>
    </button>
  );
}

function TextFilter(props: { parameter: string; value: string; label: string; placeholder: string; isSearch?: boolean }) {
  const { text, type } = useTypedText(props.value, (next) => {
    change({ [props.parameter]: next.trim() });
    return next.trim();
  });
  return (
    <input
      type="search"
      autoComplete="off"
      spellcheck={false}
      aria-label={props.label}
      aria-keyshortcuts={props.isSearch ? "/" : undefined}
      data-search={props.isSearch}
      placeholder={props.isSearch ? `${props.placeholder}  ( / )` : props.placeholder}
      value={text}
      onInput={(event) => type(event.currentTarget.value)}
    />
  );
}

function toggled(states: readonly number[], state: number): number[] {
  return states.includes(state) ? states.filter((one) => one !== state) : [...states, state].sort((a, b) => a - b);
}
