#include "traces/capture/packet_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "traces/error.h"
#include "traces/weights.h"

namespace evictsim::traces::capture {
namespace {

/// Documents are read as this sequence of the context, so that they see neither the preamble nor each other.
constexpr int document_sequence = 1;

Boundary read_embeddings(const Weights& weights, const char* name, int hidden_size) {
  Boundary boundary;
  if (!weights.has(0, name)) return boundary;
  Tensor tensor = weights.read(0, name);
  if (tensor.shape.size() != 2 || tensor.shape[1] != static_cast<std::size_t>(hidden_size)) {
    throw Error(ErrorCode::wrong_shape, fmt::format("must have shape [rows, D], D = {}", hidden_size),
                {.file = weights.location(), .dataset = std::string("layer_000/") + name});
  }
  boundary.rows = static_cast<std::int32_t>(tensor.shape[0]);
  boundary.embeddings = std::move(tensor.data);
  return boundary;
}

}  // namespace

Wrapper make_wrapper(const PacketPlan& plan, int hidden_size, int vocabulary,
                     const std::function<std::vector<std::int32_t>(const std::string&)>& tokenize) {
  Wrapper wrapper;
  if (!plan.embeddings.empty()) {
    if (!plan.header.empty() || !plan.trailer.empty()) {
      throw Error(ErrorCode::invalid_argument, "boundaries are tokens or embeddings, not both",
                  {.parameter = "packet-embeddings", .value = plan.embeddings});
    }
    const auto weights = Weights::open(plan.embeddings);
    wrapper.header = read_embeddings(*weights, "header", hidden_size);
    wrapper.trailer = read_embeddings(*weights, "trailer", hidden_size);
    if (wrapper.rows() > 0) return wrapper;
    throw Error(ErrorCode::missing_data, "must hold header or trailer [rows, D] in layer_000",
                {.file = plan.embeddings, .dataset = "layer_000"});
  }
  const auto tokens_of = [&](const std::string& text, const char* parameter) {
    Boundary boundary;
    if (!text.empty()) boundary.tokens = tokenize(text);
    boundary.rows = static_cast<std::int32_t>(boundary.tokens.size());
    for (const std::int32_t token : boundary.tokens) {
      if (token >= 0 && token < vocabulary) continue;
      throw Error(ErrorCode::invalid_argument, fmt::format("a token id outside the vocabulary of {}", vocabulary),
                  {.parameter = parameter, .value = std::to_string(token)});
    }
    return boundary;
  };
  wrapper.header = tokens_of(plan.header, "packet-header");
  wrapper.trailer = tokens_of(plan.trailer, "packet-trailer");
  return wrapper;
}

Packets packets_of(const std::vector<Span>& documents, std::int32_t prompt_length, const Wrapper& wrapper) {
  const auto refuse = [](const char* what, const Span& document) {
    throw Error(ErrorCode::invalid_argument, what,
                {.parameter = "packets", .value = fmt::format("[{}, {})", document.first, document.last)});
  };
  if (documents.empty()) {
    throw Error(ErrorCode::invalid_argument, "needs documents; name them, --span document=...",
                {.parameter = "packets"});
  }
  Packets packets;
  std::int32_t end = 0;
  for (const Span& document : documents) {
    if (document.first >= document.last) refuse("a document must hold a token", document);
    if (document.first < end) refuse("documents must not overlap", document);
    end = document.last;
    if (end > prompt_length) refuse("documents must lie inside the prompt", document);
    packets.push_back({document, wrapper.header.rows, wrapper.trailer.rows});
  }
  return packets;
}

std::int32_t entries_needed(const Packets& packets, std::int32_t length) {
  return packets.front().document.first + total_rows(packets) + length - packets.back().document.last;
}

PacketPass::PacketPass(LlamaContext& context, NodeCollector& collector, int ubatch,
                       const std::vector<std::int32_t>& tokens)
    : context_(context), collector_(collector), ubatch_(static_cast<std::size_t>(ubatch)), tokens_(tokens) {}

void PacketPass::read_tokens(std::span<const std::int32_t> tokens, std::int32_t first, int sequence, std::size_t step,
                             const Take& take) {
  for (std::size_t done = 0; done < tokens.size(); done += step) {
    const auto rows = tokens.subspan(done, std::min(step, tokens.size() - done));
    const std::int32_t position = first + static_cast<std::int32_t>(done);
    collector_.begin_step(position, static_cast<std::int32_t>(rows.size()));
    context_.decode(rows, position, sequence);
    take(collector_.finish_step());
  }
}

void PacketPass::read_boundary(const Boundary& boundary, std::int32_t first, const Take& take) {
  read_tokens(boundary.tokens, first, document_sequence, ubatch_, take);
  if (boundary.embeddings.empty()) return;
  const auto rows = static_cast<std::size_t>(boundary.rows);
  const std::size_t width = boundary.embeddings.size() / rows;
  for (std::size_t done = 0; done < rows; done += ubatch_) {
    const std::size_t count = std::min(ubatch_, rows - done);
    const std::int32_t position = first + static_cast<std::int32_t>(done);
    collector_.begin_step(position, static_cast<std::int32_t>(count));
    context_.decode_embeddings(std::span(boundary.embeddings).subspan(done * width, count * width), position,
                               document_sequence);
    take(collector_.finish_step());
  }
}

void PacketPass::read_packet(const Packet& packet, const Wrapper& wrapper, std::int32_t first, const Take& take) {
  const std::int32_t tokens = packet.document.last - packet.document.first;
  read_boundary(wrapper.header, first, take);
  read_tokens(
      std::span(tokens_).subspan(static_cast<std::size_t>(packet.document.first), static_cast<std::size_t>(tokens)),
      first + packet.header, document_sequence, ubatch_, take);
  read_boundary(wrapper.trailer, first + packet.header + tokens, take);
}

void PacketPass::read_alone(const Packets& packets, const Wrapper& wrapper, const Take& take) {
  for (const Packet& packet : packets) {
    read_packet(packet, wrapper, 0, take);
    context_.forget(0, document_sequence);
  }
}

void PacketPass::read_behind(const Packets& packets, const Wrapper& wrapper, std::int32_t prompt_length,
                             const Take& take) {
  const Take drop = [](const StepRows&) {};
  const auto part = [&](std::int32_t first, std::int32_t last) {
    return std::span(tokens_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
  };
  std::int32_t offset = packets.front().document.first;
  read_tokens(part(0, offset), 0, 0, ubatch_, drop);
  for (const Packet& packet : packets) {
    read_packet(packet, wrapper, offset, drop);
    context_.share(document_sequence, 0);
    context_.forget(0, document_sequence);
    offset += packet.rows();
  }
  const std::int32_t end = packets.back().document.last;
  const auto length = static_cast<std::int32_t>(tokens_.size());
  read_tokens(part(end, prompt_length), offset, 0, ubatch_, take);
  read_tokens(part(prompt_length, length), offset + prompt_length - end, 0, 1, take);
  context_.forget(0);
}

}  // namespace evictsim::traces::capture
