import assert from "node:assert/strict";
import { test } from "node:test";
import { hrefOf, parseRoute } from "../src/frame/routes";

test("route of a job id with any characters survives the way through the address", () => {
  for (const jobId of ["train", "a/b", "a?b#c", "50%", "größe 1", "..", "<script>"]) {
    for (const view of ["job", "logs", "stacks", "profile", "terminal"] as const) {
      const route = parseRoute(hrefOf(view, jobId, [["task", "2"], ["search", "a&b=c?"]]));
      assert.deepEqual([route.view, route.jobId], [view, jobId]);
      assert.deepEqual([...route.query], [["task", "2"], ["search", "a&b=c?"]]);
    }
  }
});

test("hash without a path is the list of jobs", () => {
  for (const hash of ["", "#", "#/", "#/jobs", "#?state=FAILED"]) assert.equal(parseRoute(hash).view, "jobs");
  assert.equal(parseRoute("#?state=FAILED").query.get("state"), "FAILED");
});

test("wrong address is unknown", () => {
  for (const hash of ["#/job", "#/jobs/a/b", "#/jobs/a/logs/b", "#/jobs/%E0%A4%A", "#/machines/a"]) {
    assert.equal(parseRoute(hash).view, "unknown", hash);
  }
});

test("address leaves out empty parameters", () => {
  assert.equal(hrefOf("jobs", "", [["state", ""], ["owner", "ana"]]), "#/jobs?owner=ana");
  assert.equal(hrefOf("jobs"), "#/jobs");
});
