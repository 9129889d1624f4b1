// Root attributes and /model: reading and rules.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "traces/file_system.h"
#include "traces/isolation.h"
#include "traces/model_record.h"
#include "traces/stored_rows.h"
#include "traces/trace_file.h"

namespace evictsim::traces {
namespace {

using hdf5::Node;

constexpr std::int64_t largest_geometry = 1 << 24;

int geometry(const Node& root, const char* name) {
  const std::int64_t value = root.integer_attribute(name);
  if (value < 1 || value > largest_geometry) {
    throw root.attribute_error(name, ErrorCode::invalid_value,
                               fmt::format("must be between 1 and {}", largest_geometry), std::to_string(value));
  }
  return static_cast<int>(value);
}

template <typename Enum, std::size_t count>
Enum choice(const Node& node, const char* name, const std::array<Enum, count>& choices) {
  const std::string text = node.text_attribute(name);
  std::string allowed;
  for (const Enum value : choices) {
    if (text == to_string(value)) return value;
    allowed += std::string(allowed.empty() ? "" : ", ") + to_string(value);
  }
  throw node.attribute_error(name, ErrorCode::invalid_value, "must be one of " + allowed, text);
}

void load_identity(const Node& root) {
  const std::string format = root.text_attribute("format");
  if (format != format_name) {
    throw root.attribute_error("format", ErrorCode::not_a_trace, fmt::format("must be {}", format_name), format);
  }
  const std::int64_t version = root.integer_attribute("format_version");
  if (version > format_version) {
    throw root.attribute_error("format_version", ErrorCode::unsupported_version,
                               fmt::format("is newer than this program, which reads up to version {}", format_version),
                               std::to_string(version));
  }
  if (version < 1) {
    throw root.attribute_error("format_version", ErrorCode::invalid_value, "must be 1", std::to_string(version));
  }
}

/// Everything at the root; returns whether the geometry is usable.
bool load_attributes(const Node& root, Header& header, const Report& report) {
  bool usable = true;
  const auto required = [&](auto&& check) { usable &= attempt(report, check); };
  required([&] { header.model = root.text_attribute("model"); });
  required([&] { header.engine = root.text_attribute("engine"); });
  required([&] { header.engine_version = root.text_attribute("engine_version"); });
  required([&] { header.created = root.text_attribute("created"); });
  required([&] { header.num_layers = geometry(root, "num_layers"); });
  required([&] { header.num_query_heads = geometry(root, "num_query_heads"); });
  required([&] { header.num_kv_heads = geometry(root, "num_kv_heads"); });
  required([&] { header.head_dim = geometry(root, "head_dim"); });
  required([&] { header.hidden_size = geometry(root, "hidden_size"); });
  required([&] { header.vocab_size = geometry(root, "vocab_size"); });
  required([&] { header.attention_scale = root.real_attribute("attention_scale"); });
  required([&] { header.logit_softcap = root.real_attribute("logit_softcap"); });
  required([&] { header.rope_theta = root.real_attribute("rope_theta"); });
  required([&] { header.rope_attention_scaling = root.real_attribute("rope_attention_scaling"); });
  required([&] {
    header.rope_layout =
        choice(root, "rope_layout", std::array{RopeLayout::half, RopeLayout::interleaved, RopeLayout::none});
  });
  required([&] {
    if (root.has_attribute("rotary_dim")) {
      header.rotary_dim =
          static_cast<int>(std::clamp<std::int64_t>(root.integer_attribute("rotary_dim"), -1, largest_geometry));
    }
  });
  required([&] {
    if (root.has_attribute("norm_epsilon")) header.norm_epsilon = root.real_attribute("norm_epsilon");
  });
  required([&] {
    if (root.has_attribute("norm_kind")) {
      header.norm_kind = choice(root, "norm_kind", std::array{NormKind::rms, NormKind::rms_plus_one, NormKind::layer});
    }
  });
  required([&] {
    if (root.has_attribute("dropped_rows")) header.dropped_rows = root.integer_attribute("dropped_rows");
  });
  required([&] {
    if (root.has_attribute("capture_overhead")) header.capture_overhead = root.real_attribute("capture_overhead");
  });
  required([&] {
    const std::set<std::string> known = {
        "format",     "format_version", "format_minor",    "model",         "engine",          "engine_version",
        "created",    "num_layers",     "num_query_heads", "num_kv_heads",  "head_dim",        "hidden_size",
        "vocab_size", "rope_theta",     "attention_scale", "logit_softcap", "rope_layout",     "rope_attention_scaling",
        "rotary_dim", "norm_epsilon",   "norm_kind",       "dropped_rows",  "capture_overhead"};
    for (const std::string& name : root.attribute_names()) {
      if (known.contains(name)) continue;
      if (std::string text = root.attribute_as_text(name); !text.empty()) header.extra[name] = std::move(text);
    }
  });
  return usable;
}

std::vector<int> small_integers(const Node& dataset, std::size_t count, const char* axes) {
  dataset.require_shape({count}, axes);
  std::vector<int> values;
  for (const std::int64_t value : hdf5::read_integers(dataset)) {
    if (value < 0 || value > std::int64_t{INT32_MAX}) {
      throw dataset.error(ErrorCode::invalid_value, "must be between 0 and 2147483647", std::to_string(value));
    }
    values.push_back(static_cast<int>(value));
  }
  return values;
}

std::vector<double> finite_reals(const Node& dataset, std::size_t count, const char* axes) {
  dataset.require_shape({count}, axes);
  std::vector<double> values = hdf5::read_reals(dataset);
  for (const double value : values) {
    if (!std::isfinite(value))
      throw dataset.error(ErrorCode::invalid_value, "must be finite", fmt::format("{}", value));
  }
  return values;
}

void load_layers(const Node& model, Header& header) {
  const Node dataset = model.dataset("layers");
  const std::vector<std::size_t> shape = dataset.shape();
  if (shape.size() != 1 || shape[0] < 1 || shape[0] > static_cast<std::size_t>(header.num_layers)) {
    throw dataset.error(ErrorCode::wrong_shape, "must have shape [L] with 1 <= L <= num_layers");
  }
  header.layers = small_integers(dataset, shape[0], "[L]");
}

void check_float(const Node& parent, const char* name, const std::vector<std::size_t>& shape, const char* axes) {
  const Node dataset = parent.dataset(name);
  dataset.require_shape(shape, axes);
  static_cast<void>(dataset.tensor_type());
}

void load_model(const Node& model, const Node& weights, Header& header, const Report& report) {
  const std::size_t layers = header.layers.size();
  attempt(report, [&] {
    const auto pairs = static_cast<std::size_t>(header.rotated()) / 2;
    if (header.rope_layout != RopeLayout::none || model.has("inv_freq")) {
      header.inv_freq = finite_reals(model.dataset("inv_freq"), pairs, "[rotary_dim / 2]");
    }
  });
  attempt(report, [&] {
    if (model.has("sliding_window"))
      header.sliding_window = small_integers(model.dataset("sliding_window"), layers, "[L]");
  });
  attempt(report, [&] {
    if (!model.has("sensitivity")) return;
    const Node dataset = model.dataset("sensitivity");
    header.sensitivity = finite_reals(dataset, layers, "[L]");
    for (const std::string& name : dataset.attribute_names()) {
      header.sensitivity_attributes[name] = dataset.attribute_as_text(name);
    }
  });
  const auto width = static_cast<std::size_t>(header.hidden_size);
  attempt(report, [&] {
    if (weights.has("unembedding")) {
      check_float(weights, "unembedding", {static_cast<std::size_t>(header.vocab_size), width}, "[vocab, D]");
    }
  });
  attempt(report, [&] {
    if (weights.has("final_norm")) check_float(weights, "final_norm", {width}, "[D]");
  });
  for (const int layer : header.layers) {
    attempt(report, [&] {
      if (!weights.has(layer_name(layer))) return;
      const Node group = weights.group(layer_name(layer));
      for (const LayerWeight weight : all_layer_weights) {
        attempt(report, [&] {
          if (!group.has(to_string(weight))) return;
          check_float(group, to_string(weight), weight_shape(weight, header),
                      weight == LayerWeight::w_o ? "[D, Hq*d]" : "[D]");
        });
      }
    });
  }
}

void require(bool holds, const std::string& file, const char* name, const char* rule, const std::string& value = {}) {
  if (holds) return;
  throw Error(ErrorCode::invalid_value, rule, {.file = file, .dataset = name, .parameter = {}, .value = value});
}

}  // namespace

std::vector<std::size_t> weight_shape(LayerWeight weight, const Header& header) {
  const auto width = static_cast<std::size_t>(header.hidden_size);
  if (weight != LayerWeight::w_o) return {width};
  return {width, static_cast<std::size_t>(header.num_query_heads) * static_cast<std::size_t>(header.head_dim)};
}

void require_valid(const Header& header, const std::string& file) {
  const auto check = [&file](bool holds, const char* name, const char* rule, const std::string& value = {}) {
    require(holds, file, name, rule, value);
  };
  for (const auto& [name, value] : {std::pair{"/@num_layers", header.num_layers},
                                    {"/@num_query_heads", header.num_query_heads},
                                    {"/@num_kv_heads", header.num_kv_heads},
                                    {"/@head_dim", header.head_dim},
                                    {"/@hidden_size", header.hidden_size},
                                    {"/@vocab_size", header.vocab_size}}) {
    check(value >= 1 && value <= largest_geometry, name, "must be between 1 and 16777216", std::to_string(value));
  }
  check(header.num_query_heads % header.num_kv_heads == 0, "/@num_query_heads", "must be a multiple of num_kv_heads",
        fmt::format("{} % {}", header.num_query_heads, header.num_kv_heads));
  check(std::isfinite(header.attention_scale), "/@attention_scale", "must be finite");
  check(std::isfinite(header.logit_softcap) && header.logit_softcap >= 0, "/@logit_softcap",
        "must be finite and not negative");
  check(std::isfinite(header.rope_theta) && header.rope_theta >= 0, "/@rope_theta", "must be finite and not negative");
  check(std::isfinite(header.rope_attention_scaling), "/@rope_attention_scaling", "must be finite");
  check(header.rotated() >= 0 && header.rotated() <= header.head_dim, "/@rotary_dim", "must be between 0 and head_dim",
        std::to_string(header.rotated()));
  check(header.rope_layout == RopeLayout::none || header.rotated() % 2 == 0, "/@rotary_dim", "must be even",
        std::to_string(header.rotated()));
  check(!header.norm_epsilon || (std::isfinite(*header.norm_epsilon) && *header.norm_epsilon >= 0), "/@norm_epsilon",
        "must be finite and not negative");
  check(!header.dropped_rows || *header.dropped_rows >= 0, "/@dropped_rows", "must not be negative");
  check(!header.capture_overhead || std::isfinite(*header.capture_overhead), "/@capture_overhead", "must be finite");
  const auto pairs = static_cast<std::size_t>(header.rotated()) / 2;
  check(header.inv_freq.size() == pairs || (header.rope_layout == RopeLayout::none && header.inv_freq.empty()),
        "/model/inv_freq", "must have rotary_dim / 2 values", std::to_string(header.inv_freq.size()));
  const std::size_t layers = header.layers.size();
  check(layers > 0, "/model/layers", "must name at least one layer");
  check(std::adjacent_find(header.layers.begin(), header.layers.end(), std::greater_equal<>()) == header.layers.end(),
        "/model/layers", "must be strictly ascending");
  check(layers == 0 || (header.layers.front() >= 0 && header.layers.back() < header.num_layers), "/model/layers",
        "must lie between 0 and num_layers - 1");
  check(header.sliding_window.empty() || header.sliding_window.size() == layers, "/model/sliding_window",
        "must have L values");
  check(header.sensitivity.empty() || header.sensitivity.size() == layers, "/model/sensitivity", "must have L values");
}

std::size_t TraceFile::layer_index(int layer) const {
  const auto place = std::lower_bound(header.layers.begin(), header.layers.end(), layer);
  if (place == header.layers.end() || *place != layer) {
    throw Error(ErrorCode::invalid_argument, fmt::format("this trace has no layer {}", layer), {.file = path.string()});
  }
  return static_cast<std::size_t>(place - header.layers.begin());
}

bool load_header(TraceFile& trace, const Report& report) {
  Header& header = trace.header;
  const std::string file = trace.path.string();
  if (!attempt(report, [&] { load_identity(trace.root); })) return false;
  if (!load_attributes(trace.root, header, report)) return false;
  return attempt(report, [&] {
    const Node model = trace.root.group("model");
    load_layers(model, header);
    // The rules on heads, widths and layers come before anything that is sized by them.
    Header geometry_only = header;
    geometry_only.inv_freq.assign(static_cast<std::size_t>(std::max(header.rotated(), 0)) / 2, 0.0);
    require_valid(geometry_only, file);
    trace.weights = open_weights(trace.root, trace.path);
    load_model(model, trace.weights, header, report);
  });
}

bool load(TraceFile& trace, const std::filesystem::path& path, const Report& report) {
  trace.path = path;
  const auto work = [&path](TraceFile& target, const Report& use, std::uint64_t size) {
    const hdf5::Guard guard;
    target.root = Node::open_file(path.string(), size);
    if (!load_header(target, use)) return false;
    load_sequences(target, use);
    return true;
  };
  bool usable = false;
  attempt(report, [&] {
    const std::uint64_t size = readable_file_size(path);
    rehearse(path, size, [&] {
      TraceFile trial;
      trial.path = path;
      // Nothing stops at the first fault here, so that whatever the caller will touch has been touched.
      work(
          trial, [](const Error&) {}, size);
    });
    usable = work(trace, report, size);
  });
  return usable;
}

}  // namespace evictsim::traces
