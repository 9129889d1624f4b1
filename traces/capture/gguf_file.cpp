#include "traces/capture/gguf_file.h"

#include <ggml.h>
#include <gguf.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

// The GGUF parser prints what it dislikes; a first look at the magic keeps the usual mistake to one line.
void require_gguf(const std::filesystem::path& path) {
  const ErrorContext where{.file = path.string()};
  std::error_code failure;
  if (!std::filesystem::exists(path, failure))
    throw Error(ErrorCode::file_not_found, "the model file does not exist", where);
  if (std::filesystem::is_directory(path, failure)) {
    throw Error(ErrorCode::invalid_value, "the model is a directory; name one GGUF file", where);
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(ErrorCode::permission_denied, "the model file cannot be read", where);
  std::array<char, 4> magic{};
  stream.read(magic.data(), magic.size());
  if (!stream || std::memcmp(magic.data(), "GGUF", magic.size()) != 0) {
    throw Error(ErrorCode::invalid_value, "not a GGUF file: it must begin with the letters GGUF", where);
  }
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path)
    : path_(path), file_(nullptr, gguf_free), tensors_(nullptr, ggml_free) {
  require_gguf(path);
  ggml_context* tensors = nullptr;
  file_.reset(gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = &tensors}));
  tensors_.reset(tensors);
  const ErrorContext where{.file = path.string()};
  if (file_ == nullptr) throw Error(ErrorCode::invalid_value, "a damaged or truncated GGUF file", where);
  architecture_ = text("general.architecture").value_or("");
  if (architecture_.empty()) throw Error(ErrorCode::invalid_value, "the GGUF file has no general.architecture", where);
  if (number("split.count").value_or(1) > 1) {
    throw Error(ErrorCode::unsupported, "the model is split over several files; merge it with llama-gguf-split --merge",
                where);
  }
}

GgufFile::~GgufFile() = default;

std::optional<double> GgufFile::number(const std::string& key) const {
  const std::int64_t id = gguf_find_key(file_.get(), key.c_str());
  if (id < 0) return std::nullopt;
  switch (gguf_get_kv_type(file_.get(), id)) {
    case GGUF_TYPE_UINT8:
      return gguf_get_val_u8(file_.get(), id);
    case GGUF_TYPE_INT8:
      return gguf_get_val_i8(file_.get(), id);
    case GGUF_TYPE_UINT16:
      return gguf_get_val_u16(file_.get(), id);
    case GGUF_TYPE_INT16:
      return gguf_get_val_i16(file_.get(), id);
    case GGUF_TYPE_UINT32:
      return gguf_get_val_u32(file_.get(), id);
    case GGUF_TYPE_INT32:
      return gguf_get_val_i32(file_.get(), id);
    case GGUF_TYPE_UINT64:
      return static_cast<double>(gguf_get_val_u64(file_.get(), id));
    case GGUF_TYPE_INT64:
      return static_cast<double>(gguf_get_val_i64(file_.get(), id));
    case GGUF_TYPE_FLOAT32:
      return static_cast<double>(gguf_get_val_f32(file_.get(), id));
    case GGUF_TYPE_FLOAT64:
      return gguf_get_val_f64(file_.get(), id);
    default:
      return std::nullopt;
  }
}

std::optional<std::string> GgufFile::text(const std::string& key) const {
  const std::int64_t id = gguf_find_key(file_.get(), key.c_str());
  if (id < 0 || gguf_get_kv_type(file_.get(), id) != GGUF_TYPE_STRING) return std::nullopt;
  return gguf_get_val_str(file_.get(), id);
}

std::optional<std::vector<bool>> GgufFile::flags(const std::string& key) const {
  const std::int64_t id = gguf_find_key(file_.get(), key.c_str());
  if (id < 0 || gguf_get_kv_type(file_.get(), id) != GGUF_TYPE_ARRAY) return std::nullopt;
  if (gguf_get_arr_type(file_.get(), id) != GGUF_TYPE_BOOL) return std::nullopt;
  const auto* values = static_cast<const std::int8_t*>(gguf_get_arr_data(file_.get(), id));
  return std::vector<bool>(values, values + gguf_get_arr_n(file_.get(), id));
}

std::optional<double> GgufFile::model_number(const std::string& key) const { return number(architecture_ + "." + key); }

std::optional<Weight> GgufFile::read(const std::string& tensor) const {
  const std::int64_t id = gguf_find_tensor(file_.get(), tensor.c_str());
  if (id < 0) return std::nullopt;
  const ErrorContext where{.file = path_.string(), .dataset = tensor};
  const ggml_tensor* shape = ggml_get_tensor(tensors_.get(), tensor.c_str());
  Weight weight;
  weight.columns = static_cast<std::size_t>(shape->ne[0]);
  weight.rows = static_cast<std::size_t>(ggml_nrows(shape));
  weight.values.resize(weight.rows * weight.columns);

  std::vector<char> raw(gguf_get_tensor_size(file_.get(), id));
  std::ifstream stream(path_, std::ios::binary);
  stream.seekg(
      static_cast<std::streamoff>(gguf_get_data_offset(file_.get()) + gguf_get_tensor_offset(file_.get(), id)));
  stream.read(raw.data(), static_cast<std::streamsize>(raw.size()));
  if (!stream) throw Error(ErrorCode::io_failure, "the model file ends before this tensor does", where);

  const ggml_type type = gguf_get_tensor_type(file_.get(), id);
  if (type == GGML_TYPE_F32) {
    std::memcpy(weight.values.data(), raw.data(), raw.size());
  } else {
    const ggml_to_float_t to_float = ggml_get_type_traits(type)->to_float;
    if (to_float == nullptr) throw Error(ErrorCode::unsupported, "a tensor type without conversion to float32", where);
    to_float(raw.data(), weight.values.data(), static_cast<std::int64_t>(weight.values.size()));
  }
  return weight;
}

bool GgufFile::is_float32() const {
  for (std::int64_t id = 0; id < gguf_get_n_tensors(file_.get()); ++id) {
    if (gguf_get_tensor_type(file_.get(), id) != GGML_TYPE_F32) return false;
  }
  return true;
}

}  // namespace evictsim::traces::capture
