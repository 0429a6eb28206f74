// The recent events of the controller, live.

import type { Controller_Event as Event } from "../../gen/iris/rpc/cluster_pb";
import { changeQuery } from "../../frame/router";
import { hrefOf, type Route } from "../../frame/routes";
import { countText, toNumber } from "../../parts/numbers";
import { clockTime, momentText } from "../../parts/time_text";
import { chosenEvents, fieldsText } from "./event_filter";

const SHOWN_EVENTS = 200;

/** The newest events, the newest first, with a filter that is a part of the address. */
export function Events({ events, route }: { events: readonly Event[]; route: Route }) {
  const text = route.query.get("events") ?? "";
  const onlyProblems = route.query.get("problems") === "1";
  const chosen = chosenEvents(events, text, onlyProblems);
  return (
    <>
      <div class="event-filters">
        <input
          type="search"
          aria-label="Filter events by name or field"
          placeholder="Name or field"
          value={text}
          onInput={(event) => changeQuery({ events: event.currentTarget.value })}
        />
        <label>
          <input
            type="checkbox"
            checked={onlyProblems}
            onChange={(event) => changeQuery({ problems: event.currentTarget.checked ? "1" : "" })}
          />{" "}
          only warnings and errors
        </label>
      </div>
      {chosen.length === 0 && <p class="muted">{events.length === 0 ? "There are no events yet." : "No event matches."}</p>}
      {chosen.length > 0 && (
        <div class="table-box">
          <table class="list events">
            <caption class="visually-hidden">Recent events of the controller, the newest first</caption>
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Level</th>
                <th scope="col">Event</th>
                <th scope="col">Fields</th>
              </tr>
            </thead>
            <tbody>
              {chosen.slice(0, SHOWN_EVENTS).map((event) => (
                <EventRow key={String(event.number)} event={event} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {chosen.length > SHOWN_EVENTS && (
        <p class="muted">
          The list has the newest {SHOWN_EVENTS} of {countText(chosen.length)} kept events. All events are in the file server.log of the
          state directory.
        </p>
      )}
    </>
  );
}

function EventRow({ event }: { event: Event }) {
  const ms = toNumber(event.timeMs);
  const { job_id: jobId, ...others } = event.fields;
  return (
    <tr class={`event-${event.level}`}>
      <td class="numbers">
        <time dateTime={new Date(ms).toISOString()} title={momentText(ms)}>
          {clockTime(ms)}
        </time>
      </td>
      <td class="event-level">{event.level}</td>
      <td class="event-name">{event.name}</td>
      <td class="event-fields">
        {jobId && (
          <>
            <a href={hrefOf("job", jobId)}>
              <bdi>{jobId}</bdi>
            </a>{" "}
          </>
        )}
        <bdi class="muted">{fieldsText({ ...event, fields: others })}</bdi>
      </td>
    </tr>
  );
}
