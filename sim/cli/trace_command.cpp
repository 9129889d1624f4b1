#include "sim/cli/trace_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/merge.h"
#include "traces/reader.h"
#include "traces/slice.h"
#include "traces/synthesize.h"
#include "traces/verify.h"

namespace evictsim {
namespace {

using traces::Channel;
using traces::Header;
using traces::Reader;
using traces::SequenceInfo;

template <typename... Arguments>
void print(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  const std::string text = fmt::format(format, std::forward<Arguments>(arguments)...);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

/// Text from a file as one line that a terminal does not act on.
std::string printable(std::string text) {
  for (char& character : text) {
    if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f) character = ' ';
  }
  return text;
}

std::string bytes_text(std::uintmax_t bytes) {
  if (bytes < 10000) return fmt::format("{} bytes", bytes);
  if (bytes < 10000000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string list_text(const std::vector<int>& values) {
  std::string text;
  for (std::size_t first = 0; first < values.size();) {
    std::size_t last = first;
    while (last + 1 < values.size() && values[last + 1] == values[last] + 1) ++last;
    text += text.empty() ? "" : ", ";
    text += last == first ? std::to_string(values[first]) : fmt::format("{}-{}", values[first], values[last]);
    first = last + 1;
  }
  return text;
}

void print_model(const Header& header) {
  print("  model       {}\n", printable(header.model));
  print("  engine      {} {}, {}\n", printable(header.engine), printable(header.engine_version),
        printable(header.created));
  print(
      "  geometry    {} layers, {} query heads, {} KV heads (groups of {}), head width {}, model width {}, vocabulary "
      "{}\n",
      header.num_layers, header.num_query_heads, header.num_kv_heads, header.group_size(), header.head_dim,
      header.hidden_size, header.vocab_size);
  print(
      "  attention   scale {}{}{}\n", header.attention_scale,
      header.logit_softcap > 0 ? fmt::format(", soft cap {}", header.logit_softcap) : "",
      header.sliding_window.empty() ? "" : fmt::format(", sliding windows {}", fmt::join(header.sliding_window, " ")));
  print("  RoPE        {}{}\n", to_string(header.rope_layout),
        header.rope_layout == traces::RopeLayout::none
            ? ""
            : fmt::format(", theta {}, {} of {} components, factor {}", header.rope_theta, header.rotated(),
                          header.head_dim, header.rope_attention_scaling));
  print("  captured    layers {}\n", list_text(header.layers));
  if (header.dropped_rows) print("  dropped     {} rows\n", *header.dropped_rows);
  if (header.capture_overhead) print("  slow-down   {} while capturing\n", *header.capture_overhead);
  for (const auto& [name, text] : header.extra) print("  {:<11} {}\n", printable(name), printable(text));
}

/// Names of what is there, with how many of `total` have it when not all do.
class Presence {
 public:
  explicit Presence(std::size_t total) : total_(total) {}
  void count(const std::string& name, bool present) {
    if (present) ++counts_[name];
  }
  [[nodiscard]] std::string text() const {
    std::string line;
    for (const auto& [name, count] : counts_) {
      line += (line.empty() ? "" : ", ") + name;
      if (count != total_) line += fmt::format(" ({} of {})", count, total_);
    }
    return line.empty() ? "none" : line;
  }

 private:
  std::size_t total_;
  std::map<std::string, std::size_t> counts_;
};

void print_optional_data(const Reader& reader) {
  const Header& header = reader.header();
  Presence weights(header.layers.size());
  Presence hidden(header.layers.size() * reader.sequences().size());
  Presence channels(reader.sequences().size());
  for (const int layer : header.layers) {
    for (const auto weight :
         {traces::LayerWeight::w_o, traces::LayerWeight::input_norm, traces::LayerWeight::output_norm}) {
      weights.count(to_string(weight), reader.has_weight(layer, weight));
    }
  }
  for (std::size_t sequence = 0; sequence < reader.sequences().size(); ++sequence) {
    for (const auto channel :
         {Channel::entropy, Channel::entropy_top, Channel::logprob, Channel::step_norm, Channel::cos_final,
          Channel::cos_attention, Channel::residual_norm, Channel::final_norm_input}) {
      channels.count(to_string(channel), reader.has_channel(sequence, channel));
    }
    channels.count("token_bytes", reader.sequences()[sequence].token_texts.has_value());
    channels.count("second_pass", reader.read_second_pass(sequence).has_value());
    for (const auto set : traces::packet_sets) {
      channels.count(fmt::format("packets/{}", to_string(set)), reader.read_packets(sequence, set).has_value());
    }
    for (const auto& [kind, spans] : reader.sequences()[sequence].spans)
      channels.count("spans/" + kind, !spans.empty());
    for (const int layer : header.layers) hidden.count("x", reader.has_hidden(sequence, layer));
  }
  std::string model;
  for (const auto tensor : {traces::ModelTensor::unembedding, traces::ModelTensor::final_norm}) {
    if (reader.has_model_tensor(tensor)) model += (model.empty() ? "" : ", ") + std::string(to_string(tensor));
  }
  if (!header.sensitivity.empty()) model += (model.empty() ? "" : ", ") + std::string("sensitivity");
  print("  optional    per model: {}\n", model.empty() ? "none" : model);
  print("              per layer: {}\n", weights.text());
  print("              per layer and sequence: {}\n", hidden.text());
  print("              per sequence: {}\n", channels.text());
}

void print_queries(const Reader& reader, std::size_t sequence) {
  const SequenceInfo& info = reader.sequences()[sequence];
  // Layers with the same rows share a line.
  std::map<std::pair<std::size_t, std::size_t>, std::vector<int>> layers;
  for (const int layer : reader.header().layers) {
    const std::vector<std::int32_t> rows = reader.query_rows(sequence, layer);
    const auto prompt =
        static_cast<std::size_t>(std::lower_bound(rows.begin(), rows.end(), info.prompt_length) - rows.begin());
    layers[{prompt, rows.size() - prompt}].push_back(layer);
  }
  for (const auto& [counts, members] : layers) {
    print("              queries of {} prompt and {} decode rows in layers {}\n", counts.first, counts.second,
          list_text(members));
  }
}

void print_packets(const Reader& reader, std::size_t sequence) {
  for (const auto set : traces::packet_sets) {
    const std::optional<traces::Packets> packets = reader.read_packets(sequence, set);
    if (!packets) continue;
    std::int32_t boundary = 0;
    for (const traces::Packet& packet : *packets) boundary += packet.header + packet.trailer;
    print("              {} {} packets, {} rows, {} of them boundary rows\n", packets->size(), to_string(set),
          traces::total_rows(*packets), boundary);
  }
}

void print_sequence(const Reader& reader, std::size_t sequence) {
  const SequenceInfo& info = reader.sequences()[sequence];
  const int layer = reader.header().layers.front();
  print("  sequence    {}: {} tokens, {} prompt + {} decode, {}{}{}\n", info.name, info.length, info.prompt_length,
        info.length - info.prompt_length, to_string(reader.stored_type(sequence, layer)),
        info.task ? ", task " + printable(*info.task) : "",
        info.request_id ? ", request " + printable(*info.request_id) : "");
  for (const auto& [kind, spans] : info.spans) {
    print("              {} {}:", kind, spans.size() == 1 ? "span" : "spans");
    constexpr std::size_t most = 8;
    for (std::size_t index = 0; index < std::min(most, spans.size()); ++index) {
      print(" [{}, {})", spans[index].first, spans[index].last);
    }
    print("{}\n", spans.size() > most ? fmt::format(" and {} more", spans.size() - most) : "");
  }
  print_packets(reader, sequence);
  print_queries(reader, sequence);
}

void print_info(const std::filesystem::path& file) {
  const Reader reader(file);
  std::int64_t tokens = 0;
  for (const SequenceInfo& info : reader.sequences()) tokens += info.length;
  print("{}\n", file.string());
  print("  format      {} version {}, {}\n", traces::format_name, traces::format_version,
        bytes_text(std::filesystem::file_size(file)));
  print_model(reader.header());
  print_optional_data(reader);
  print("  sequences   {}, {} tokens in all\n", reader.sequences().size(), tokens);
  for (std::size_t sequence = 0; sequence < reader.sequences().size(); ++sequence) print_sequence(reader, sequence);
}

void add_info(CLI::App& trace) {
  auto paths = std::make_shared<std::vector<std::string>>();
  CLI::App* command = trace.add_subcommand("info", "Says what a trace holds");
  command->add_option("TRACE", *paths, "Trace files, or directories with a manifest.jsonl")->required();
  command->callback([paths] {
    for (const std::string& path : *paths) {
      for (const std::filesystem::path& file : traces::trace_files(path)) print_info(file);
    }
  });
}

void add_verify(CLI::App& trace) {
  struct Settings {
    std::vector<std::string> paths;
    traces::VerifyOptions options;
  };
  auto settings = std::make_shared<Settings>();
  CLI::App* command =
      trace.add_subcommand("verify", "Holds traces against the rules of the format, one line per fault");
  command->add_option("TRACE", settings->paths, "Trace files, or directories with a manifest.jsonl")->required();
  command->add_option("--rows", settings->options.sampled_rows, "Rows per layer whose attention is recomputed")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->callback([settings] {
    bool failed = false;
    for (const std::string& path : settings->paths) {
      const std::vector<traces::Fault> faults = traces::verify(path, settings->options);
      for (const traces::Fault& fault : faults) print("{}\n", fault.line);
      if (faults.empty()) print("{}: ok\n", path);
      failed |= !faults.empty();
    }
    if (failed) throw CLI::RuntimeError(1);
  });
}

/// FIRST:LAST, either may be left out.
std::int32_t row_number(const std::string& text, std::int32_t otherwise, const std::string& whole) {
  if (text.empty()) return otherwise;
  try {
    std::size_t used = 0;
    const int value = std::stoi(text, &used);
    if (used == text.size() && value >= 0) return value;
  } catch (const std::exception&) {  // Said below.
  }
  throw Error(ErrorCode::invalid_argument, "must be FIRST:LAST, for example 0:512",
              {.file = {}, .dataset = {}, .parameter = "--rows", .value = whole});
}

void add_slice(CLI::App& trace) {
  struct Settings {
    std::string input, output, rows;
    traces::SliceOptions options;
  };
  auto settings = std::make_shared<Settings>();
  CLI::App* command =
      trace.add_subcommand("slice", "Copies layers, heads, sequences or rows into a new trace, bit for bit");
  command
      ->add_option("TRACE", settings->input,
                   "The trace file to copy from, or a directory whose manifest.jsonl names one")
      ->required();
  command->add_option("-o,--output", settings->output, "The new trace")->required();
  command->add_option("--layers", settings->options.layers, "Layers to keep, for example 0,5,9")->delimiter(',');
  command->add_option("--heads", settings->options.kv_heads, "KV heads to keep, each with its query heads")
      ->delimiter(',');
  command->add_option("--sequences", settings->options.sequences, "Sequences to keep, for example 0,3")->delimiter(',');
  command->add_option("--rows", settings->rows,
                      "Token rows FIRST:LAST to keep, LAST not included; either may be left out");
  command->callback([settings] {
    if (!settings->rows.empty()) {
      const std::size_t colon = settings->rows.find(':');
      if (colon == std::string::npos) static_cast<void>(row_number("?", 0, settings->rows));
      settings->options.first_row = row_number(settings->rows.substr(0, colon), 0, settings->rows);
      const std::int32_t last = row_number(settings->rows.substr(colon + 1), -1, settings->rows);
      if (last >= 0) settings->options.last_row = last;
    }
    traces::slice(settings->input, settings->output, settings->options);
    print("wrote {}, {}\n", settings->output, bytes_text(std::filesystem::file_size(settings->output)));
  });
}

void add_merge(CLI::App& trace) {
  struct Settings {
    std::vector<std::string> parts;
    std::string output;
    traces::MergeOptions options;
  };
  auto settings = std::make_shared<Settings>();
  CLI::App* command = trace.add_subcommand(
      "merge", "Makes one trace of captures with different heads of the same requests, as tensor-parallel ranks write");
  command
      ->add_option("PART", settings->parts, "One per rank, in any order: a trace file, or a directory with a manifest")
      ->required();
  command->add_option("-o,--output", settings->output, "The new trace")->required();
  command->add_flag("--complete-only", settings->options.complete_only,
                    "Leave out requests that are not whole in every part; otherwise they are an error");
  command->callback([settings] {
    const traces::MergeResult result =
        traces::merge({settings->parts.begin(), settings->parts.end()}, settings->output, settings->options);
    for (const std::string& request : result.left_out) print("left out {}\n", printable(request));
    print("wrote {}, {} sequence{}, {}\n", settings->output, result.sequences, result.sequences == 1 ? "" : "s",
          bytes_text(std::filesystem::file_size(settings->output)));
  });
}

/// An option whose value is the name of one of `values`. CLI11's own transformer would list their numbers too.
template <typename Choice>
void add_choice(CLI::App& command, const char* name, Choice& chosen, const std::vector<Choice>& values,
                const std::string& text) {
  std::vector<std::string> names;
  for (const Choice value : values) names.emplace_back(to_string(value));
  command
      .add_option_function<std::string>(
          name,
          [&chosen, values](const std::string& given) {
            chosen = *std::find_if(values.begin(), values.end(),
                                   [&given](Choice value) { return given == to_string(value); });
          },
          fmt::format("{}: {} [{}]", text, fmt::join(names, ", "), to_string(chosen)))
      ->check(CLI::IsMember(names).description(""))
      ->group("Geometry");
}

void add_synth(CLI::App& trace) {
  struct Settings {
    std::string output;
    traces::SynthOptions options;
  };
  auto settings = std::make_shared<Settings>();
  traces::SynthOptions& options = settings->options;
  CLI::App* command = trace.add_subcommand("synth", "Makes a synthetic trace with a prescribed attention structure");
  command->add_option("-o,--output", settings->output, "The new trace")->required();
  command->add_option("--seed", options.seed, "The same seed gives the same tensors")->capture_default_str();
  const auto option = [command](const char* group, const char* name, auto& value, const char* text) {
    command->add_option(name, value, text)->capture_default_str()->group(group);
  };
  option("Geometry", "--layers", options.layers, "Layers");
  option("Geometry", "--heads", options.query_heads, "Query heads");
  option("Geometry", "--kv-heads", options.kv_heads, "KV heads");
  option("Geometry", "--head-dim", options.head_dim, "Width of a head");
  option("Geometry", "--hidden-size", options.hidden_size, "Width of the model");
  option("Geometry", "--vocab", options.vocab_size, "Vocabulary");
  option("Geometry", "--prompt", options.prompt, "Prompt tokens");
  option("Geometry", "--decode", options.decode, "Decode rows");
  option("Geometry", "--sequences", options.sequences, "Sequences");
  option("Geometry", "--rope-theta", options.rope_theta, "Base of RoPE");
  option("Geometry", "--window", options.window, "Last prompt tokens whose queries are kept");
  add_choice(*command, "--rope", options.rope_layout,
             {traces::RopeLayout::half, traces::RopeLayout::interleaved, traces::RopeLayout::none}, "RoPE layout");
  add_choice(*command, "--dtype", options.tensor_type,
             {traces::TensorType::float16, traces::TensorType::bfloat16, traces::TensorType::float32}, "Stored type");
  command->add_flag("--all-queries", options.all_queries, "Keep the queries of every token")->group("Geometry");
  command->add_flag("--hidden-states", options.hidden_states, "Also write x")->group("Geometry");
  command->add_flag("--compress", options.compress, "Shuffle and deflate")->group("Geometry");
  option("Structure", "--sinks", options.sinks, "First tokens that every query attends to");
  option("Structure", "--sink-logit", options.sink_logit, "Their logit, in nats above the others");
  option("Structure", "--recency-logit", options.recency_logit, "Logit of a token on itself, falling with distance");
  option("Structure", "--heavy-hitters", options.heavy_hitters, "Prompt tokens that every query attends to");
  option("Structure", "--heavy-logit", options.heavy_logit, "Their logit");
  option("Structure", "--needles", options.needles, "Evidence spans that decode rows attend to");
  option("Structure", "--needle-width", options.needle_width, "Tokens of a needle");
  option("Structure", "--needle-logit", options.needle_logit, "Their logit");
  option("Structure", "--distractors", options.distractors,
         "Tokens nearly as strong as a needle, outside the evidence");
  option("Structure", "--distractor-gap", options.distractor_gap, "Their logits lie below a needle's by up to this");
  option("Structure", "--noise", options.noise_logit, "Standard deviation of the logits' noise");
  command->add_flag("--second-pass", options.second_pass, "Also read the prompt again, for kvzip and kvcompose")
      ->group("Other passes");
  option("Other passes", "--documents", options.documents, "Parts of the prompt read alone, for kvpacket");
  option("Other passes", "--packet-noise", options.packet_noise,
         "Standard deviation of what k and v differ by when read alone");
  command->callback([settings] {
    traces::synthesize(settings->output, settings->options);
    print("wrote {}, {}\n", settings->output, bytes_text(std::filesystem::file_size(settings->output)));
  });
}

}  // namespace

void add_trace_command(CLI::App& app) {
  CLI::App* trace = app.add_subcommand("trace", "Looks at, checks, cuts and makes trace files");
  trace->require_subcommand(1);
  add_info(*trace);
  add_verify(*trace);
  add_slice(*trace);
  add_merge(*trace);
  add_synth(*trace);
}

}  // namespace evictsim
