#include "traces/capture/command_options.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "traces/capture/sink/text_fields.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

int parse_gpu_layers(const std::string& text) {
  if (text == "all") return all_layers;
  return static_cast<int>(TextField{"gpu-layers", text}.integer(0, 1 << 20));
}

}  // namespace

std::string read_text(const std::string& path) {
  const ErrorContext where{.file = path};
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  if (std::filesystem::is_directory(path))
    throw Error(ErrorCode::invalid_argument, "a text file is needed, this is a directory", where);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    const bool exists = std::filesystem::exists(path);
    throw Error(exists ? ErrorCode::permission_denied : ErrorCode::file_not_found,
                exists ? "the file cannot be read" : "the file does not exist", where);
  }
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::int32_t> read_tokens(const std::string& path) {
  std::istringstream stream(read_text(path));
  std::vector<std::int32_t> tokens;
  for (std::string word; stream >> word;) {
    std::int32_t token = 0;
    const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), token);
    if (failure != std::errc{} || end != word.data() + word.size()) {
      throw Error(ErrorCode::invalid_argument, "token ids are whole numbers with blanks between them",
                  {.file = path, .value = word});
    }
    tokens.push_back(token);
  }
  if (tokens.empty()) {
    throw Error(ErrorCode::invalid_argument, "the file holds no token ids", {.file = path});
  }
  return tokens;
}

EngineArguments EngineArguments::exact() {
  EngineArguments arguments;
  arguments.settings.cache_type = CacheType::float32;
  arguments.settings.flash_attention = FlashAttention::off;
  return arguments;
}

void EngineArguments::add_to(CLI::App& command) {
  const std::map<std::string, CacheType> caches = {{"f16", CacheType::float16}, {"f32", CacheType::float32}};
  command
      .add_option("--cache-type", settings.cache_type,
                  settings.cache_type == CacheType::float16 ? "the engine's KV cache: f16 (default) or f32"
                                                            : "the engine's KV cache: f32 (default) or f16")
      ->type_name("TEXT")
      ->transform(one_of(caches));
  const std::map<std::string, FlashAttention> modes = {
      {"auto", FlashAttention::automatic}, {"on", FlashAttention::on}, {"off", FlashAttention::off}};
  command
      .add_option("--flash-attention", settings.flash_attention,
                  settings.flash_attention == FlashAttention::automatic ? "auto (default), on or off"
                                                                        : "off (default), on or auto")
      ->type_name("TEXT")
      ->transform(one_of(modes));
  command.add_option("--threads", settings.threads, "threads of the engine")->capture_default_str();
  command.add_option("--ubatch", settings.ubatch, "prompt tokens per forward step")->capture_default_str();
  command.add_option("--gpu-layers", gpu_layers, "layers that run on GPUs: a number, or all")->capture_default_str();
  command.add_option("--main-gpu", main_gpu, "the only GPU to use, counted from 0")
      ->default_str("layers are spread over all");
}

EngineSettings EngineArguments::complete(const CLI::App& command) const {
  EngineSettings engine = settings;
  engine.gpu_layers = parse_gpu_layers(gpu_layers);
  if (command.count("--main-gpu") > 0) engine.main_gpu = main_gpu;
  return engine;
}

}  // namespace evictsim::traces::capture
