#include "traces/capture/run_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>
#include <memory>

#include "traces/capture/batch_capture.h"
#include "traces/capture/batch_command.h"
#include "traces/capture/command_options.h"
#include "traces/capture/llama_capture.h"
#include "traces/capture/sink/text_fields.h"
#include "traces/error.h"
#include "traces/stop_on_signal.h"

namespace evictsim::traces::capture {
namespace {

// Options as typed, before files are read.
struct Arguments {
  CapturePlan plan;
  std::string prompt_file, tokens_file, batch_file, continuation_file, continuation_tokens_file, token_key_file, output;
  std::vector<std::string> layers, spans;
  std::string query_rows = "all";
  std::string task;
  EngineArguments engine;
  std::string shard_bytes = "1GiB";
  double tolerance = 0;
  bool no_output_weights = false;
  bool no_check = false;
  SecondPassPlan second_pass;
  PacketPlan packets;
  std::string second_pass_range;
  bool with_second_pass = false;
  bool with_packets = false;
};

std::vector<int> parse_layers(const std::vector<std::string>& words) {
  std::vector<int> layers;
  if (words.size() == 1 && words.front() == "all") return layers;
  for (const std::string& word : words) {
    int layer = 0;
    const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), layer);
    if (failure != std::errc{} || end != word.data() + word.size()) {
      throw Error(ErrorCode::invalid_argument, "layers are 'all' or numbers with commas between them",
                  {.parameter = "layers", .value = word});
    }
    layers.push_back(layer);
  }
  return layers;
}

Span parse_range(const std::string& text) {
  Span range;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, range.first);
  const bool colon = first.ec == std::errc{} && first.ptr != end && *first.ptr == ':';
  const auto last = std::from_chars(colon ? first.ptr + 1 : end, end, range.last);
  if (colon && last.ec == std::errc{} && last.ptr == end) return range;
  throw Error(ErrorCode::invalid_argument, "a range of tokens is FIRST:END",
              {.parameter = "second-pass-range", .value = text});
}

/// A capture goes into a directory when its name says so, or when there is one.
bool names_directory(const std::string& output) {
  std::error_code ignored;
  return output.ends_with('/') || std::filesystem::is_directory(output, ignored);
}

std::filesystem::path directory_of(const std::string& output) {
  std::error_code ignored;
  if (output.ends_with(".h5") || std::filesystem::is_regular_file(output, ignored)) {
    throw Error(ErrorCode::invalid_argument, "many prompts go into a directory of shards; name one",
                {.file = output, .parameter = "output"});
  }
  const bool slash = output.size() > 1 && output.ends_with('/');
  return slash ? output.substr(0, output.size() - 1) : output;
}

void complete_plan(Arguments& arguments, const CLI::App& command) {
  CapturePlan& plan = arguments.plan;
  plan.record.layers = parse_layers(arguments.layers);
  plan.record.queries = parse_query_sample("q-rows", arguments.query_rows);
  plan.record.shard_bytes = TextField{"shard-bytes", arguments.shard_bytes}.bytes();
  plan.engine = arguments.engine.complete(command);
  plan.record.output_weights = !arguments.no_output_weights;
  plan.record.check = !arguments.no_check;
  if (arguments.with_second_pass) plan.record.second_pass = arguments.second_pass;
  if (!arguments.second_pass_range.empty()) {
    plan.record.second_pass->range = parse_range(arguments.second_pass_range);
  }
  if (arguments.with_packets) plan.record.packets = arguments.packets;
  if (command.count("--tolerance") > 0) plan.record.tolerance = arguments.tolerance;
  if (!arguments.task.empty()) plan.sequence.task = arguments.task;
  for (const std::string& span : arguments.spans) plan.sequence.spans.push_back(parse_span(span));
  if (arguments.batch_file.empty() && !plan.sequence.system.empty() && !plan.sequence.chat_template) {
    throw Error(ErrorCode::invalid_argument, "a system message needs the model's template; add --chat-template",
                {.parameter = "system"});
  }
  if (!arguments.token_key_file.empty()) {
    plan.record.token_key = read_text(arguments.token_key_file);
    if (plan.record.token_key.empty()) {
      throw Error(ErrorCode::invalid_argument, "a key needs at least one byte", {.file = arguments.token_key_file});
    }
  }
  if (!arguments.prompt_file.empty()) plan.sequence.prompt = read_text(arguments.prompt_file);
  if (!arguments.tokens_file.empty()) plan.sequence.prompt_tokens = read_tokens(arguments.tokens_file);
  if (!arguments.continuation_file.empty()) plan.sequence.continuation = read_text(arguments.continuation_file);
  if (!arguments.continuation_tokens_file.empty()) {
    plan.sequence.continuation_tokens = read_tokens(arguments.continuation_tokens_file);
  }
}

void print_report(const CaptureReport& report, const Arguments& arguments) {
  fmt::print("{}: {} prompt + {} decode tokens, {} bytes\n", arguments.output, report.prompt_length,
             report.length - report.prompt_length, std::filesystem::file_size(arguments.output));
  if (!report.continuation.empty()) fmt::print("decoded: {}\n", report.continuation);
  const auto print_speed = [](const char* name, const Speed& speed) {
    fmt::print("{}: {:.1f} tokens/s prefill, {:.1f} tokens/s decode\n", name, speed.prefill, speed.decode);
  };
  print_speed("captured and written", report.captured);
  if (report.uncaptured) print_speed("without capture", *report.uncaptured);
  if (report.overhead) fmt::print("capture_overhead: {:.3f}\n", *report.overhead);
  if (!report.check) {
    fmt::print("check: none\n");
    return;
  }
  fmt::print(
      "check: {} rows, attention from the trace against the engine's: largest relative error {:.2e} (layer {}, row "
      "{}), "
      "mean {:.2e}, tolerance {:.0e}\n",
      report.check->compared, report.check->largest, report.check->layer, report.check->row, report.check->mean,
      report.tolerance);
}

/// One prompt into one file. Returns the exit status.
int run_single(const Arguments& arguments) {
  LlamaCapture capture(arguments.plan);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const StopOnSignal signals;
  const RunControl control{.progress =
                               [terminal](std::int32_t done, std::int32_t length) {
                                 if (!terminal) return;
                                 fmt::print(stderr, "\r{} of {} tokens{}", done, length, done == length ? "\n" : "");
                               },
                           .stop = &StopOnSignal::requested()};
  try {
    print_report(capture.run(arguments.output, control), arguments);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::interrupted) throw;
    fmt::print(stderr, "evictsim-capture: interrupted; {} was not written\n", arguments.output);
    return interrupted_status;
  }
  return 0;
}

int run(Arguments& arguments, const CLI::App& command) {
  complete_plan(arguments, command);
  const CapturePlan& plan = arguments.plan;
  if (arguments.batch_file.empty() && !names_directory(arguments.output)) return run_single(arguments);
  if (plan.record.measure_overhead) {
    throw Error(ErrorCode::invalid_argument, "the cost of capturing is measured with one prompt into one file",
                {.parameter = "measure-overhead"});
  }
  const std::filesystem::path directory = directory_of(arguments.output);
  std::vector<BatchEntry> entries = {{0, plan.sequence}};
  if (!arguments.batch_file.empty()) {
    entries = parse_batch(read_text(arguments.batch_file), arguments.batch_file, plan.sequence);
  }
  BatchCapture batch(plan.model, plan.engine, plan.record, std::move(entries));
  return run_batch(batch, directory, arguments.batch_file);
}

/// Passes beside the recorded one: the context read again, and documents read alone.
void add_other_passes(CLI::App& command, Arguments& arguments) {
  SecondPassPlan& pass = arguments.second_pass;
  auto* second = command.add_flag("--second-pass", arguments.with_second_pass,
                                  "read the context again behind the prompt, for kvzip and kvcompose");
  command.add_option("--second-pass-chunk", pass.chunk, "tokens read at once, 0 for all")
      ->capture_default_str()
      ->needs(second);
  command
      .add_option("--second-pass-range", arguments.second_pass_range, "FIRST:END, the prompt's tokens to read again")
      ->default_str("the whole prompt")
      ->needs(second);
  const char* request = "asks for the first chunk: text, or tokens:5,6,7; may be empty";
  command.add_option("--repeat-prompt", pass.first_request, request)->needs(second);
  command
      .add_option("--repeat-next", pass.next_request,
                  "asks for every later chunk, with the last tokens of the chunk before behind it")
      ->needs(second);
  command.add_option("--repeat-tail", pass.tail, "how many of the chunk's last tokens")
      ->capture_default_str()
      ->needs(second);

  PacketPlan& packets = arguments.packets;
  auto* alone = command.add_flag("--packets", arguments.with_packets,
                                 "read every document (--span document=...) alone, for kvpacket");
  auto* header =
      command.add_option("--packet-header", packets.header, "boundary before every document: text, or tokens:5,6,7");
  auto* trailer = command.add_option("--packet-trailer", packets.trailer, "boundary behind every document");
  auto* embeddings = command.add_option("--packet-embeddings", packets.embeddings,
                                        "weights file with trained boundaries, FILE or FILE:/group");
  for (auto* option : {header, trailer, embeddings}) option->needs(alone);
  embeddings->excludes(header)->excludes(trailer);
}

/// How traces are written.
void add_writer(CLI::App& command, Arguments& arguments) {
  RecordPlan& record = arguments.plan.record;
  command.add_option("--writer-threads", record.writer_threads, "threads that compress and write")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command
      .add_option("--shard-bytes", arguments.shard_bytes,
                  "size of a shard in a directory; reached, it is followed by another")
      ->capture_default_str();
  command.add_option("--shard-seconds", record.shard_seconds, "age of a shard in a directory, likewise")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31))
      ->capture_default_str();
}

}  // namespace

void add_run_command(CLI::App& app, int& status) {
  auto* command = app.add_subcommand("run", "Runs a GGUF model over a prompt, or over many, and writes a trace");
  const auto arguments = std::make_shared<Arguments>();
  CapturePlan& plan = arguments->plan;
  command->add_option("--model", plan.model, "GGUF model file")->required();
  command
      ->add_option("-o,--output", arguments->output,
                   "trace file to write; DIRECTORY/ (and always with --prompts): shards and a manifest")
      ->required();

  auto* prompt = command->add_option_group("prompt", "What the model reads (exactly one)");
  prompt->add_option("--prompt", arguments->prompt_file, "text file, - for standard input");
  auto* tokens = prompt->add_option("--prompt-tokens", arguments->tokens_file, "file of token ids instead of text");
  auto* batch =
      prompt->add_option("--prompts", arguments->batch_file,
                         "file of many prompts, a JSON object a line: {\"prompt\": \"...\", \"id\": \"...\"}");
  prompt->require_option(1);
  command->add_option("--id", plan.sequence.id, "name of the prompt in the trace")
      ->capture_default_str()
      ->excludes(batch);
  command
      ->add_flag("--chat-template", plan.sequence.chat_template,
                 "wrap the prompt as a user message in the model's template")
      ->excludes(tokens);
  command->add_option("--system", plan.sequence.system, "system message for --chat-template");
  command
      ->add_option(
          "--span", arguments->spans,
          "KIND=SNIPPET or KIND=tokens:FIRST:END, KIND one of evidence, question, document, turn, image; repeatable")
      ->allow_extra_args(false)
      ->excludes(batch);
  command->add_option("--task", arguments->task, "name of the task, kept in the trace");

  auto* decode =
      command->add_option("--decode", plan.sequence.decode, "tokens to decode greedily")->capture_default_str();
  command->add_flag("--ignore-end", plan.sequence.ignore_end, "go on decoding behind the model's end of answer");
  auto* forced = command->add_option("--continuation", arguments->continuation_file,
                                     "text file to decode instead (teacher forcing)");
  auto* forced_tokens =
      command->add_option("--continuation-tokens", arguments->continuation_tokens_file, "the same as token ids");
  forced->excludes(decode)->excludes(forced_tokens)->excludes(batch);
  forced_tokens->excludes(decode)->excludes(batch);

  command->add_option("--layers", arguments->layers, "layers to capture: all, or numbers with commas")
      ->delimiter(',')
      ->default_str("all");
  command
      ->add_option("--q-rows", arguments->query_rows,
                   "rows of q to keep: all, none, or parts joined by + out of window:N, decode, stride:N")
      ->capture_default_str();
  command->add_option("--q-all-layers", plan.record.full_query_layers, "layers that keep all rows of q even so")
      ->delimiter(',');
  const std::map<std::string, TensorType> types = {
      {"f16", TensorType::float16}, {"bf16", TensorType::bfloat16}, {"f32", TensorType::float32}};
  command->add_option("--dtype", plan.record.tensor_type, "f16 (default), bf16 or f32")
      ->type_name("TEXT")
      ->transform(one_of(types));
  command->add_flag("--x", plan.record.hidden, "also record x, the residual stream entering every captured layer");
  command->add_flag("--no-w-o", arguments->no_output_weights, "leave out W_O (there is no check then)");
  auto* text =
      command->add_flag("--store-text", plan.record.store_text, "keep the prompt's text and that of every token");
  const std::map<std::string, bool> forms = {{"plain", false}, {"hashed", true}};
  command
      ->add_option(
          "--token-ids", plan.record.hash_token_ids,
          "plain (default), or hashed: ids are exchanged among each other, so that only equal ones can be told")
      ->type_name("TEXT")
      ->transform(one_of(forms))
      ->excludes(text);
  command->add_option("--token-key", arguments->token_key_file,
                      "file whose bytes choose how ids are hashed (default: chosen at random, not kept)");

  add_other_passes(*command, *arguments);
  arguments->engine.add_to(*command);
  add_writer(*command, *arguments);

  command->add_flag("--no-check", arguments->no_check, "do not compare attention from the trace with the engine's own");
  command->add_option("--tolerance", arguments->tolerance,
                      "largest relative error of the check (default 2e-2; 1e-5 if all is float32)");
  command->add_flag("--measure-overhead", plan.record.measure_overhead,
                    "run twice more to measure and record the cost of capturing");
  command->callback([arguments, command, &status] { status = run(*arguments, *command); });
}

}  // namespace evictsim::traces::capture
