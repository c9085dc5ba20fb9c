//! From a model artifact to a running [`Llama`]: blobs are mapped, dense tensors widened to f32 and rounded to the
//! compute dtype, packed ones kept as they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use qpipe_cache::{Digest, Mapped, Store};
use qpipe_codecs::{
    BlockSize, DoubleQuantized, FourBit, GroupSize, OutlierThreshold, RtnBits, RtnFormat, Symmetry,
};
use qpipe_formats::{LlamaConfig, TensorFile, Tokenizer};
use qpipe_sdk::{Artifact, StageError};

use crate::artifact::{Encoding, ModelArtifact, Module, TensorRef};
use crate::device::ComputeDevice;
use crate::model::compute::ComputeDtype;
use crate::model::linear::{Absmax, BlobSlice, Int8Product, Linear, Matrix, PackedCodes, PackedWeight};
use crate::model::llama::{Llama, Weights};
use crate::model::ops::Place;
use crate::model::resident::Resident;

/// A model loaded onto a device, and its tokenizer.
pub struct LoadedModel {
    pub artifact: ModelArtifact,
    pub llama: Llama,
    pub tokenizer: Tokenizer,
}

/// Loads the model behind an artifact. `positions`: the longest sequence it will run.
pub fn load_model(
    store: &Store,
    artifact: &Artifact,
    device: ComputeDevice,
    positions: usize,
) -> Result<LoadedModel, StageError> {
    let model = ModelArtifact::read(store, artifact)?;
    let tokenizer = read_tokenizer(store, &model.tokenizer, &model.config)?;
    let on_cpu = device == ComputeDevice::Cpu;
    let device = device.device();
    let place = Place::of(on_cpu, &model.config, &device);
    let mut reader = Reader { blobs: BlobReader::new(store), model: &model, place, device: device.clone() };
    let llama = Llama::build(&model.config, model.compute_dtype, &device, place, positions, &mut reader)?;
    Ok(LoadedModel { artifact: model, llama, tokenizer })
}

/// The tokenizer in a blob, which must fit the model's vocabulary.
pub fn read_tokenizer(store: &Store, blob: &Digest, config: &LlamaConfig) -> Result<Tokenizer, StageError> {
    let tokenizer = crate::tokenizers::tokenizer(store, blob)?;
    let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size);
    if tokens <= rows {
        return Ok(tokenizer);
    }
    Err(StageError::config(format!(
        "the tokenizer has {tokens} tokens, the model's embedding only {rows} rows"
    )))
}

/// Maps safetensors blobs, each once; threads may share it.
pub struct BlobReader<'a> {
    store: &'a Store,
    files: Mutex<HashMap<Digest, Arc<TensorFile<Mapped>>>>,
}

impl<'a> BlobReader<'a> {
    pub fn new(store: &'a Store) -> Self {
        Self { store, files: Mutex::default() }
    }

    fn file(&self, blob: &Digest) -> Result<Arc<TensorFile<Mapped>>, StageError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(blob) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(TensorFile::parse(self.store.map(blob)?).map_err(StageError::config)?);
        files.insert(*blob, Arc::clone(&file));
        Ok(file)
    }

    /// The bytes of a tensor; its dtype and shape are those the reference promises.
    pub fn bytes(&self, tensor: &TensorRef) -> Result<BlobSlice, StageError> {
        let file = self.file(&tensor.blob)?;
        let view = file.get(&tensor.name).map_err(StageError::config)?;
        if view.dtype != tensor.dtype || view.shape != tensor.shape {
            let message = format!("tensor `{}` is not what the model artifact says it is", tensor.name);
            return Err(StageError::Config(message));
        }
        let start = file.offset(&tensor.name).map_err(StageError::config)?;
        Ok(BlobSlice { range: start..start + view.bytes.len(), map: file.owner().clone() })
    }

    /// The values of a floating-point tensor, widened to f32.
    pub fn values(&self, tensor: &TensorRef) -> Result<Vec<f32>, StageError> {
        let bytes = self.bytes(tensor)?;
        let view =
            qpipe_formats::TensorView { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes: &bytes };
        Ok(qpipe_formats::to_f32(&view))
    }
}

struct Reader<'a> {
    blobs: BlobReader<'a>,
    model: &'a ModelArtifact,
    place: Place,
    device: Device,
}

impl Reader<'_> {
    fn module(&self, name: &str) -> Result<&Module, StageError> {
        let missing = || StageError::config(format!("the model artifact lacks module `{name}`"));
        self.model.modules.get(name).ok_or_else(missing)
    }

    /// A dense tensor's values, rounded to the compute dtype, and its shape.
    fn dense<const D: usize>(&self, name: &str) -> Result<(Vec<f32>, [usize; D]), StageError> {
        let module = self.module(name)?;
        let shape = module.shape.as_slice().try_into().ok().filter(|_| module.encoding == Encoding::Dense);
        let shape = shape.ok_or_else(|| {
            StageError::config(format!("module `{name}` is not a dense tensor of rank {D}"))
        })?;
        let mut values = self.blobs.values(module.part("weight")?)?;
        qpipe_codecs::round_slice(&mut values, self.model.compute_dtype.rounding());
        Ok((values, shape))
    }
}

#[cfg(feature = "cuda")]
impl Reader<'_> {
    /// A dense matrix as it is stored, uploaded from the mapped file.
    fn matrix_on_cuda(&self, name: &str) -> Result<Option<Matrix>, StageError> {
        let module = self.module(name)?;
        let (&[rows, columns], Encoding::Dense) = (module.shape.as_slice(), module.encoding) else {
            return Ok(None);
        };
        let tensor = module.part("weight")?;
        let bytes = self.blobs.bytes(tensor)?;
        let view =
            qpipe_formats::TensorView { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes: &bytes };
        let compute = self.model.compute_dtype;
        let matrix = crate::model::dense_on_cuda(&view, [rows, columns], compute, &self.device);
        Ok(matrix.map(Matrix::from))
    }
}

impl Weights for Reader<'_> {
    type Error = StageError;

    fn vector(&mut self, module: &str) -> Result<Tensor<1>, StageError> {
        let (values, shape) = self.dense::<1>(module)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }

    fn matrix(&mut self, module: &str) -> Result<Matrix, StageError> {
        #[cfg(feature = "cuda")]
        if self.place == Place::Cuda
            && let Some(matrix) = self.matrix_on_cuda(module)?
        {
            return Ok(matrix);
        }
        let (values, shape) = self.dense(module)?;
        Ok(match self.place {
            Place::Host => Matrix::Host { values: values.into(), shape },
            Place::Device => Tensor::from_data(TensorData::new(values, shape), &self.device).into(),
            #[cfg(feature = "cuda")]
            Place::Cuda => {
                let options = (&self.device, crate::model::stored_on_cuda(self.model.compute_dtype));
                Tensor::from_data(TensorData::new(values, shape), options).into()
            }
        })
    }

    #[cfg(feature = "cuda")]
    fn joined(&mut self, names: &[String]) -> Result<Option<Linear>, StageError> {
        if self.place != Place::Cuda {
            return Ok(None);
        }
        let modules = names.iter().map(|name| self.module(name).cloned()).collect::<Result<Vec<_>, _>>()?;
        if modules.iter().all(|module| module.encoding == Encoding::Dense) {
            let parts = names.iter().map(|name| self.matrix(name)).collect::<Result<Vec<_>, _>>()?;
            return Ok(Matrix::joined(parts).map(Linear::Dense));
        }
        if modules.iter().any(|module| module.encoding == Encoding::Dense) {
            return Ok(None);
        }
        let weights = names.iter().zip(&modules).map(|(name, module)| packed(&self.blobs, name, module));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let joined = Resident::upload_joined(&weights, &self.device);
        Ok(joined.map(|weight| Linear::Resident(weight.into())))
    }

    fn linear(&mut self, name: &str) -> Result<Linear, StageError> {
        let module = self.module(name)?.clone();
        if module.encoding == Encoding::Dense {
            return self.matrix(name).map(Linear::Dense);
        }
        let weight = packed(&self.blobs, name, &module)?;
        if self.place == Place::Host {
            return Ok(Linear::Packed(weight.decoded().into()));
        }
        Ok(match Resident::upload(weight, &self.device) {
            Ok(weight) => Linear::Resident(weight.into()),
            Err(weight) => Linear::Packed(weight.decoded().into()),
        })
    }
}

/// A quantized module's weight, its bytes mapped.
pub fn packed(blobs: &BlobReader<'_>, name: &str, module: &Module) -> Result<PackedWeight, StageError> {
    let &[out, inner] = module.shape.as_slice() else {
        return Err(StageError::config(format!("module `{name}` is not a matrix")));
    };
    let codes = match module.encoding {
        Encoding::Dense => return Err(StageError::config(format!("module `{name}` is not quantized"))),
        Encoding::Nf4 { block, double_quant } => four(blobs, module, FourBit::Nf4, block, double_quant)?,
        Encoding::Fp4 { block, double_quant } => four(blobs, module, FourBit::Fp4, block, double_quant)?,
        Encoding::Int8 { threshold } => {
            let threshold =
                if threshold > 0.0 { OutlierThreshold::AtLeast(threshold) } else { OutlierThreshold::Off };
            int8(blobs, module, Int8Product::LlmInt8(threshold))?
        }
        Encoding::Int8WeightOnly => int8(blobs, module, Int8Product::WeightOnly)?,
        Encoding::Rtn { bits, group, symmetric } => rtn(blobs, module, rtn_format(bits, group, symmetric)?)?,
    };
    let weight = PackedWeight { out, inner, codes };
    weight.check().map_err(|what| StageError::config(format!("module `{name}`: {what}")))?;
    Ok(weight)
}

fn int8(blobs: &BlobReader<'_>, module: &Module, product: Int8Product) -> Result<PackedCodes, StageError> {
    let codes = blobs.bytes(module.part("codes")?)?;
    Ok(PackedCodes::Int8 { codes, scb: blobs.values(module.part("scb")?)?, product })
}

/// The format that an encoding or a stage's parameters name.
pub fn rtn_format(bits: u32, group: i64, symmetric: bool) -> Result<RtnFormat, StageError> {
    let width =
        RtnBits::of(bits).ok_or_else(|| StageError::config(format!("`bits` is {bits}, not 4 or 8")))?;
    let group = GroupSize::try_from(group).map_err(StageError::config)?;
    let symmetry = if symmetric { Symmetry::Symmetric } else { Symmetry::Asymmetric };
    Ok(RtnFormat { bits: width, group, symmetry })
}

fn rtn(blobs: &BlobReader<'_>, module: &Module, format: RtnFormat) -> Result<PackedCodes, StageError> {
    let zeros = match format.symmetry {
        Symmetry::Symmetric => Vec::new(),
        Symmetry::Asymmetric => blobs.bytes(module.part("zeros")?)?.to_vec(),
    };
    let codes = blobs.bytes(module.part("codes")?)?;
    Ok(PackedCodes::Rtn { format, codes, scales: blobs.values(module.part("scales")?)?, zeros })
}

fn four(
    blobs: &BlobReader<'_>,
    module: &Module,
    kind: FourBit,
    block: u32,
    double_quant: bool,
) -> Result<PackedCodes, StageError> {
    let block = BlockSize::try_from(block).map_err(StageError::config)?;
    let absmax = if double_quant {
        Absmax::Nested(nested(blobs, module)?)
    } else {
        Absmax::Plain(blobs.values(module.part("absmax")?)?)
    };
    Ok(PackedCodes::Four { kind, block, packed: blobs.bytes(module.part("codes")?)?, absmax })
}

fn nested(blobs: &BlobReader<'_>, module: &Module) -> Result<DoubleQuantized, StageError> {
    let offset = blobs.values(module.part("absmax_offset")?)?;
    let [offset] = offset[..] else {
        return Err(StageError::config("`absmax_offset` is not one number"));
    };
    Ok(DoubleQuantized {
        codes: blobs.bytes(module.part("absmax_codes")?)?.to_vec(),
        offset,
        nested_absmax: blobs.values(module.part("nested_absmax")?)?,
    })
}

/// The compute dtype that a stage's parameter names, or another default.
pub fn compute_dtype(name: Option<&str>, default: ComputeDtype) -> ComputeDtype {
    name.and_then(ComputeDtype::parse).unwrap_or(default)
}
