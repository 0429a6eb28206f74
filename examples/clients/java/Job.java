// Submits a job with the HTTP client of the JDK, follows its log, and says how it ended. Needs Java 17.
//
//   java Job.java COMMAND...
//
// IRIS_CONTROLLER_ADDRESS (http://… or https://…) and IRIS_TOKEN name the cluster. The program has no dependencies. It
// reads single fields of JSON with a pattern; a real program uses a JSON library.

import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

public class Job {
  static final String ADDRESS = System.getenv("IRIS_CONTROLLER_ADDRESS");
  static final String TOKEN = System.getenv("IRIS_TOKEN");
  static final HttpClient CLIENT = HttpClient.newHttpClient();

  public static void main(String[] command) throws Exception {
    String words = Arrays.stream(command).map(Job::quoted).collect(Collectors.joining(","));
    String launch = "{\"name\":\"java-" + UUID.randomUUID() + "\",\"command\":[" + words + "]}";
    String job = field(call("LaunchJob", launch), "jobId");
    System.err.println("submitted " + job);

    URI log = URI.create(ADDRESS + "/v1/jobs/" + URLEncoder.encode(job, StandardCharsets.UTF_8) + "/logs?follow=1");
    HttpResponse<Stream<String>> lines = CLIENT.send(request(log).build(), BodyHandlers.ofLines());
    lines.body().forEach(System.out::println);

    String status;
    do {
      status = call("GetJobStatus", "{\"jobId\":" + quoted(job) + "}");
    } while (field(status, "finishedAtMs").isEmpty());
    String error = field(status, "error");
    System.err.println(job + " ended " + field(status, "state") + (error.isEmpty() ? "" : ": " + error));
    System.exit(field(status, "state").equals("JOB_STATE_SUCCEEDED") ? 0 : 1);
  }

  static String call(String name, String body) throws Exception {
    URI uri = URI.create(ADDRESS + "/iris.cluster.ControllerService/" + name);
    HttpRequest call = request(uri)
        .header("content-type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString(body))
        .build();
    HttpResponse<String> answer = CLIENT.send(call, BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      String error = answer.body();
      System.err.println("the call failed with code " + field(error, "code") + ": " + field(error, "message"));
      System.exit(2);
    }
    return answer.body();
  }

  static HttpRequest.Builder request(URI uri) {
    return HttpRequest.newBuilder(uri).header("authorization", "Bearer " + TOKEN);
  }

  static String quoted(String text) {
    return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n").replace("\t", "\\t") + '"';
  }

  /** Returns the first field with a name, or an empty text. 64-bit integers are texts in JSON. */
  static String field(String json, String name) {
    Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
    return found.find() ? found.group(1) : "";
  }
}
